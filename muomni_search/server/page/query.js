// The query: words in the box, and below it the sum of everything that was added or subtracted.
import * as api from "./api.js";
import { Icon } from "./icons.js";
import { addPart, go, isPlain, now, wordsOf } from "./state.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact.js";
import { partName, signed } from "./words.js";

const TYPING = 220, DRAGGING = 90, SOON = 1500;  // milliseconds

export function SearchBox({ route, useFiles, record }) {
  const box = useRef(), file = useRef(), timer = useRef(), isTyping = useRef(false);
  const plain = isPlain(route), said = wordsOf(route);
  const [words, setWords] = useState(said);
  // At once, not after the next paint: what is typed until then would be lost.
  useLayoutEffect(() => { if (!plain || said !== words.trim()) setWords(said); }, [said, plain, route.collection]);
  // Where there are keys and nothing is asked yet, one can begin to type.
  useEffect(() => { if (!route.parts.length && !route.item && matchMedia("(hover: hover)").matches) box.current.focus(); }, []);
  const ask = (text, how) => {
    clearTimeout(timer.current);
    const value = text.trim();
    go({ parts: value ? [{ kind: "text", value, weight: 1 }] : [], item: "", why: false }, how);
  };
  const type = event => {
    const text = event.target.value;
    setWords(text);
    clearTimeout(timer.current);
    if (!isPlain(now())) return;
    // The first letter makes an entry of the history, the others go on with it.
    timer.current = setTimeout(() => { if (isPlain(now())) { ask(text, isTyping.current ? "replace" : "push"); isTyping.current = true; } }, TYPING);
  };
  const add = sign => {
    clearTimeout(timer.current);
    const value = words.trim();
    if (!value) return;
    if (isPlain(now())) go({ parts: [{ kind: "text", value, weight: sign }], sum: true });
    else addPart({ kind: "text", value, weight: sign });
    setWords("");
    box.current.focus();
  };
  const submit = event => {
    event.preventDefault();
    if (!plain) return add(1);
    ask(words, isTyping.current ? "replace" : "push");
    isTyping.current = false;
  };
  const keys = event => {
    if (event.key === "Enter" && event.shiftKey) { event.preventDefault(); add(-1); }
    if (event.key === "/" && !words) event.preventDefault();  // the way into the box, from inside
    if (event.key === "Escape" && words) { event.preventDefault(); event.stopPropagation(); setWords(""); if (plain) ask("", "push"); }
    if (event.key === "ArrowDown") { event.preventDefault(); document.querySelector('.hits .open[tabindex="0"], .strip .open')?.focus(); }
  };
  return html`
    <form role="search" class="box" onSubmit=${submit}>
      <label class="aside" for="words">${plain ? "Search with words" : "Words to add to the sum"}</label>
      <${Icon} name="search" />
      <input id="words" ref=${box} type="search" enterkeyhint="search" autocomplete="off" autocapitalize="off" spellcheck=${false} maxlength="20000"
        value=${words} placeholder=${plain ? "Search with words, a picture or a sound" : "Add words to the sum"} onInput=${type} onKeyDown=${keys} onBlur=${() => { isTyping.current = false; }} />
      ${words.trim() && html`<span class="signs">
        <button type="button" onClick=${() => add(1)} title=${plain ? "Keep these words, and add more to them" : "Add these words (Enter)"} aria-label="Add these words to a sum"><${Icon} name="plus" /></button>
        ${!plain && html`<button type="button" onClick=${() => add(-1)} title="Subtract these words (Shift+Enter)" aria-label="Subtract these words"><${Icon} name="minus" /></button>`}</span>`}
      <button type="button" onClick=${() => file.current.click()} title="Search with a picture or a sound from a file" aria-label="Search with a picture or a sound"><${Icon} name="picture" /></button>
      <button type="button" onClick=${record} title="Record a sound and search with it" aria-label="Record a sound"><${Icon} name="mic" /></button>
      <input ref=${file} id="query-file" type="file" class="aside" tabindex="-1" aria-hidden="true" accept="image/*,audio/*" multiple onChange=${event => { useFiles([...event.target.files]); event.target.value = ""; }} />
    </form>`;
}

// ---- the sum ----------------------------------------------------------------------------------------

export function Sum({ route, seen, busy }) {
  if (isPlain(route) && !busy) return null;
  return html`
    <section class="sum" aria-label="The query, a sum">
      <ol role="list">${!isPlain(route) && route.parts.map((part, k) => html`<${Part} key=${`${part.kind} ${part.value}`} part=${part} k=${k} route=${route} seen=${seen} />`)}
      ${busy && html`<li class="part waiting"><span class="thumb"></span><span>${busy}</span></li>`}</ol>
      ${!isPlain(route) && html`<button type="button" class="quiet" onClick=${() => { go({ parts: [], sum: false }); document.getElementById("words").focus(); }}>Clear</button>`}
    </section>`;
}

function Part({ part, k, route, seen }) {
  const [weight, setWeight] = useState(part.weight);
  const timer = useRef(), changed = useRef(0);
  useLayoutEffect(() => setWeight(part.weight), [part.weight]);  // at once, as the words above
  const change = (to, how) => go({ parts: now().parts.map((one, at) => (at === k ? { ...one, weight: to } : one)), sum: true }, how);
  // A pull, and keys one soon after the other, are one step of the history.
  const drag = event => {
    const to = Number(event.target.value);
    setWeight(to);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      change(to, performance.now() - changed.current < SOON ? "replace" : "push");
      changed.current = performance.now();
    }, DRAGGING);
  };
  const remove = () => {
    clearTimeout(timer.current);
    const parts = now().parts.filter((_, at) => at !== k);
    go({ parts, sum: false });
    document.getElementById("words").focus();
  };
  const name = partName(part, seen), sign = weight === 0 ? "off" : weight < 0 ? "minus" : "plus";
  return html`
    <li class=${`part ${sign}`}>
      <span class="sign" aria-hidden="true">${weight === 0 ? "0" : weight < 0 ? "−" : k || route.parts.length > 1 ? "+" : ""}</span>
      <${Thumb} key=${route.collection} part=${part} route=${route} seen=${seen} />
      <bdi class="name" title=${name}>${name}</bdi>
      <input type="range" min="-2" max="2" step="0.1" value=${weight} aria-label=${`Weight of ${name}`} aria-valuetext=${weight === 0 ? "off" : signed(weight)}
        onInput=${drag} style=${{ "--at": `${(weight + 2) * 25}%` }} />
      <output>${signed(weight)}</output>
      <button type="button" class="remove" onClick=${remove} aria-label=${`Remove ${name}`}><${Icon} name="close" /></button>
    </li>`;
}

function Thumb({ part, route, seen }) {
  const [isMissing, setMissing] = useState(false);
  if (part.kind === "text" || (part.kind === "id" && (seen.get(part.value)?.modality ?? "image") !== "image")) return null;
  if (part.kind === "audio") return html`<span class="thumb"><${Icon} name="mic" /></span>`;
  const src = part.kind === "image" ? api.uploaded(part.value) : api.thumbnail(route.collection, part.value, 64);
  if (isMissing) return part.kind === "image" ? html`<span class="thumb" title="The server has forgotten it"><${Icon} name="picture" /></span>` : null;
  return html`<img class="thumb" src=${src} alt="" onError=${() => setMissing(true)} />`;
}
