// One item, large: what it is, how strongly it answers, and why.
import * as api from "./api.js";
import { Icon } from "./icons.js";
import { Player, stop, toggleHit } from "./sound.js";
import { activeParts, addPart, closeItem, go, now, onlyPart } from "./state.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { NAME, cut, meaning, partName, signed, strength, value as shown } from "./words.js";

export function ItemDialog({ route, found, seen, mayWrite, changed }) {
  const dialog = useRef();
  const at = found.hits.findIndex(hit => hit.key === route.item);
  const [fetched, setFetched] = useState(null), [error, setError] = useState(null);
  const item = at >= 0 ? found.hits[at] : fetched?.key === route.item ? fetched : null;
  useEffect(() => { dialog.current.showModal(); }, []);
  useEffect(() => {
    setError(null);
    if (at >= 0) return;
    let isHere = true;
    api.item(route.collection, route.item).then(told => isHere && setFetched({ ...told, span: null }), told => isHere && setError(told));
    return () => { isHere = false; };
  }, [route.item, route.collection, at < 0]);
  const step = by => { const next = found.hits[at + by]; if (next) { stop(); go({ item: next.key }, "replace"); } };
  const keys = event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, [contenteditable]")) return;
    const act = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1), w: () => activeParts(route).length && go({ why: !route.why }, "replace"),
      m: () => onlyPart({ kind: "id", value: route.item }), p: () => item && toggleHit(route.collection, item),
      "+": () => addPart({ kind: "id", value: route.item, weight: 1 }), "-": () => addPart({ kind: "id", value: route.item, weight: -1 }),
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  };
  return html`
    <dialog ref=${dialog} class="item" aria-labelledby="item-title" onClose=${() => { stop(); if (now().item) closeItem(); }} onKeyDown=${keys}
      onClick=${event => { if (event.target === dialog.current) dialog.current.close(); }}>
      <div class="inside" tabindex="-1" autofocus>
        <div class="bar">
          <p class="where-at">${at >= 0 ? `${at + 1} of ${found.hits.length}${found.hasMore ? "+" : ""}` : ""}</p>
          <button type="button" disabled=${at <= 0} onClick=${() => step(-1)} aria-label="Previous" title="Previous (←)"><${Icon} name="left" /></button>
          <button type="button" disabled=${at < 0 || at >= found.hits.length - 1} onClick=${() => step(1)} aria-label="Next" title="Next (→)"><${Icon} name="right" /></button>
          <button type="button" onClick=${() => dialog.current.close()} aria-label="Close" title="Close (Esc)"><${Icon} name="close" /></button>
        </div>
        ${item ? html`<${Shown} key=${item.key} item=${item} route=${route} seen=${seen} mayWrite=${mayWrite} changed=${changed} />`
          : error ? html`<div class="state"><h2 id="item-title">${error.status === 404 ? "This item is not here any more" : "It cannot be shown"}</h2><p>${error.message}</p></div>`
          : html`<div class="state"><h2 id="item-title" class="aside">Loading</h2><div class="spinner"></div></div>`}
      </div>
    </dialog>`;
}

function Shown({ item, route, seen, mayWrite, changed }) {
  const canExplain = activeParts(route).length > 0;
  const [reason, setReason] = useState(null), [wrong, setWrong] = useState(null), [showsHeat, setHeat] = useState(true), [asksDelete, setAsks] = useState(false);
  useEffect(() => {
    if (!route.why || !canExplain) return;
    const control = new AbortController();
    setReason(null); setWrong(null);
    api.explain(route.collection, { parts: activeParts(route), key: item.key }, control.signal).then(setReason, error => control.signal.aborted || setWrong(error));
    return () => control.abort();
  }, [route.why, item.key, JSON.stringify(activeParts(route))]);
  const explained = route.why ? reason : null;
  const text = useText(route.collection, item);
  const facts = Object.entries(item.metadata).filter(([name]) => name !== "title");
  const remove = async () => {
    if (!asksDelete) return setAsks(true);
    try { await api.remove(route.collection, item.key); go({ item: "" }, "replace"); changed(`${item.title} was removed.`); } catch (error) { setWrong(error); }
  };
  return html`
    <div class=${`media ${item.modality}`} tabindex=${item.modality === "text" ? 0 : undefined} role="group" aria-label=${item.title}>
      ${item.modality === "audio" && item.has_original ? html`<${Player} collection=${route.collection} hit=${item} isLarge curve=${explained?.evidence.windows?.length > 1 ? explained.evidence : null} />`
        : item.modality === "image" && item.has_original ? html`
          <img class="large" src=${explained?.overlay && showsHeat ? explained.overlay : api.original(route.collection, item.key)} alt=${item.title} />
          ${explained?.overlay && html`<label class="check over"><input type="checkbox" checked=${showsHeat} onChange=${event => setHeat(event.target.checked)} /> Show what carries the match</label>`}`
        : explained?.evidence.kind === "words" && text !== null ? html`<${Words} text=${text} words=${explained.evidence.words} />`
        : html`<${Passage} item=${item} text=${text} />`}
    </div>
    <div class="facts">
      <p class="kind-line"><i class=${`kind ${item.modality}`}></i>${NAME[item.modality]}</p>
      <h2 id="item-title"><bdi>${item.title}</bdi></h2>
      ${item.score !== undefined && html`<${Score} score=${item.score} cosine=${item.cosine} />`}
      ${item.modality !== "text" && item.text && html`<p class="caption" dir="auto">${item.text}</p>`}
      <div class="acts">
        <button type="button" class="main" onClick=${() => onlyPart({ kind: "id", value: item.key })}><${Icon} name="like" />More like this</button>
        <button type="button" onClick=${() => addPart({ kind: "id", value: item.key, weight: 1 })}><${Icon} name="plus" />Add to the query</button>
        <button type="button" onClick=${() => addPart({ kind: "id", value: item.key, weight: -1 })}><${Icon} name="minus" />Subtract</button>
        ${canExplain && html`<button type="button" aria-pressed=${route.why ? "true" : "false"} onClick=${() => go({ why: !route.why }, "replace")}><${Icon} name="why" />Why?</button>`}
        <button type="button" onClick=${() => go({ view: "map", item: "", at: item.key })}><${Icon} name="map" />On the map</button>
        ${item.has_original && html`<a class="button" href=${api.original(route.collection, item.key)} target="_blank" rel="noopener"><${Icon} name="open" />Open the file</a>`}
      </div>
      ${route.why && canExplain && html`<section class="why" aria-live="polite" aria-label="Why">${wrong ? html`<p class="wrong">${wrong.said}</p>`
        : reason ? html`<${Reason} reason=${reason} seen=${seen} />` : html`<p class="soft"><span class="spinner"></span> Looking for what carries the match…</p>`}</section>`}
      ${facts.length > 0 && html`<dl>${facts.map(([name, said]) => html`<div key=${name}><dt>${name}</dt><dd><bdi>${shown(said)}</bdi></dd></div>`)}</dl>`}
      <p class="key"><bdi>${item.key}</bdi></p>
      ${mayWrite && html`<p class="remove-line"><button type="button" class=${asksDelete ? "danger" : "quiet"} onClick=${remove} onBlur=${() => setAsks(false)}><${Icon} name="trash" />${asksDelete ? "Really remove it?" : "Remove from the collection"}</button></p>`}
    </div>`;
}

/** Return an item's whole text: a hit of one of several passages has that one alone. */
function useText(collection, item) {
  const isPart = item.span?.unit === "char", [text, setText] = useState(isPart ? null : item.text);
  useEffect(() => {
    let isHere = true;
    if (isPart) api.item(collection, item.key).then(told => isHere && setText(told.text), () => {});
    return () => { isHere = false; };
  }, []);
  return text;
}

function Passage({ item, text }) {
  const mark = useRef();
  useEffect(() => mark.current?.scrollIntoView({ block: "center" }), [text]);
  if (!item.text) return html`<p class="none">${item.modality === "text" ? "Its text is not kept here." : `The ${NAME[item.modality]} itself is not kept here.`}</p>`;
  if (text === null || item.span?.unit !== "char") return html`<p class="passage" dir="auto">${item.text}</p>`;
  const [before, marked, after] = cut(text, item.span);
  return html`<p class="passage" dir="auto">${before}<mark ref=${mark}>${marked}</mark>${after}</p>`;
}

function Score({ score, cosine }) {
  return html`
    <div class="strength" tabindex="0" role="group" aria-label=${`Score ${score.toFixed(2)}: ${meaning(score)}. Cosine ${cosine.toFixed(3)}.`}>
      <p><b>${signed(score, 2)}</b> ${meaning(score)} <span class="cosine">cosine ${cosine.toFixed(3)}</span></p>
      <svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="4" /><rect class="fill" width=${100 * strength(score)} height="4" /></svg>
    </div>`;
}

// ---- why --------------------------------------------------------------------------------------------

/** A text whose words are marked by what they add; each can be added to the query, or subtracted. */
function Words({ text, words }) {
  const most = Math.max(1e-6, ...words.map(one => Math.abs(one.share)));
  const letters = Array.from(text), strongest = useRef();
  const [chosen, choose] = useState(-1);
  useEffect(() => strongest.current?.scrollIntoView({ block: "center" }), []);
  let from = words[0]?.start ?? 0;
  const [before, , after] = cut(text, { start: from, end: words.at(-1)?.end ?? from }), pieces = [before];
  words.forEach((word, k) => {
    pieces.push(letters.slice(from, word.start).join(""));
    pieces.push(html`<button type="button" key=${k} ref=${Math.abs(word.share) === most ? strongest : null} class=${`word ${word.share < 0 ? "against" : ""}`} style=${{ "--share": Math.abs(word.share) / most }}
      aria-expanded=${chosen === k ? "true" : "false"} title=${`adds ${word.share.toFixed(3)} to the cosine`} onClick=${() => choose(chosen === k ? -1 : k)}>${letters.slice(word.start, word.end).join("")}</button>`);
    if (chosen === k) pieces.push(html`<span class="pick" key="pick"><${Pick} word=${word.text} /></span>`);
    from = word.end;
  });
  pieces.push(after);
  return html`<p class="passage weighed" dir="auto">${pieces}</p>`;
}

const bare = word => word.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "") || word;

function Pick({ word }) {
  const value = bare(word);
  return html`
    <button type="button" aria-label=${`Add “${value}” to the query`} onClick=${() => addPart({ kind: "text", value, weight: 1 })}><${Icon} name="plus" /></button>
    <button type="button" aria-label=${`Subtract “${value}” from the query`} onClick=${() => addPart({ kind: "text", value, weight: -1 })}><${Icon} name="minus" /></button>`;
}

function Reason({ reason, seen }) {
  const { evidence, parts, query_words: words } = reason;
  const said = {
    grid: evidence.how === "covered" ? "Bright is what the match needs: covered, the cosine falls." : "Bright are the patches nearest to the query.",
    curve: evidence.windows?.length > 1 ? "The line over the sound is its likeness to the query, moment by moment." : "This sound is short: it is compared as a whole.",
    words: "The stronger a word is marked, the more it adds. A click on a word adds it to the query, or subtracts it.",
  }[evidence.kind];
  return html`<h3>Why it is here</h3><p class="soft">${said}</p>
    ${words.length > 1 && html`<h4>What each word of the query adds</h4><${Shares} rows=${words.map(word => [word.text, word.share, word.text])} />`}
    ${parts.length > 1 && html`<h4>What each part of the query adds</h4><${Shares} rows=${parts.map(part => [partName(part, seen), part.share])} />`}`;
}

function Shares({ rows }) {
  const most = Math.max(1e-6, ...rows.map(([, share]) => Math.abs(share)));
  return html`<ul class="shares" role="list">${rows.map(([name, share, word]) => html`
    <li class=${share < 0 ? "against" : ""}><bdi>${name}</bdi><svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect class="fill" width=${100 * Math.abs(share) / most} height="4" /></svg>
      <span class="number">${share < 0 ? "" : "+"}${signed(share, 3)}</span>${word && html`<span class="pick"><${Pick} word=${word} /></span>`}</li>`)}</ul>`;
}
