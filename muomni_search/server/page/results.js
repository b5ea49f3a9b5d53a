// The hits: fetched page by page, and of any number of them only those in sight are drawn.
import * as api from "./api.js";
import { Icon } from "./icons.js";
import { Player, toggleHit } from "./sound.js";
import { activeParts, addPart, filterOf, go, onlyPart, question } from "./state.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact.js";
import { NAME, isWeak, meaning, percent, signed } from "./words.js";

const PAGE = 60, KEPT = 30;

// ---- fetching ---------------------------------------------------------------------------------------

// Items of the same name are told apart by as much of their keys as that takes.
function tellApart(hits) {
  const ending = (hit, count) => hit.key.split("/").slice(-count).join("/");
  const named = new Map();
  for (const hit of hits) if (`/${hit.key}`.endsWith(`/${hit.title}`)) named.set(ending(hit, 1), [...(named.get(ending(hit, 1)) || []), hit]);
  for (const same of named.values()) {
    let count = 1;
    const isEnough = () => new Set(same.map(hit => ending(hit, count))).size === same.length || same.every(hit => ending(hit, count) === hit.key);
    while (!isEnough()) count++;
    for (const hit of same) hit.title = ending(hit, count);
  }
  return hits;
}

// The answers to the last questions, so that going back shows them at once.
const kept = new Map();
export const forgetAnswers = () => kept.clear();

const request = route => ({
  parts: activeParts(route),
  ...(route.tab === "all" ? {} : { modality: [route.tab] }),
  ...(filterOf(route) ? { where: filterOf(route) } : {}),
  ...(route.sure ? { min_score: "auto" } : {}),
});

async function fetchPage(route, { hits: old, fetched }, signal) {
  const isSearch = activeParts(route).length > 0;
  if (isSearch) {
    const json = { ...request(route), k: PAGE + 1, offset: fetched };  // one more tells whether there are more
    let told;
    try {
      told = await api.search(route.collection, json, signal);
    } catch (error) {
      if (error.status !== 404 || json.parts.every(part => part.kind === "text")) throw error;
      const lost = await api.restore(route.collection, json.parts);
      if (lost.length) { error.lost = lost; throw error; }
      told = await api.search(route.collection, json, signal);
    }
    return { hits: told.hits.slice(0, PAGE), seconds: told.seconds, hasMore: told.hits.length > PAGE };
  }
  const told = await api.items(route.collection, {
    where: filterOf(route), modality: route.tab === "all" ? null : [route.tab], after: old.at(-1)?.key, limit: PAGE, signal,
  });
  return { hits: told.items.map(one => ({ ...one, span: null })), hasMore: Boolean(told.next) };
}

const NONE = { asked: "", of: "", collection: "", hits: [], fetched: 0, hasMore: false };

/** Put a page behind the hits before it. The collection may have changed since: what moved down comes a second time. */
function joined({ hits: old, fetched }, { hits }) {
  const keys = new Set(old.map(hit => hit.key));
  return { hits: tellApart([...old, ...hits.filter(hit => !keys.has(hit.key))]), fetched: fetched + hits.length };
}

/** Return {hits, of, hasMore, error, isLoading, isStale, more}: until the new hits are here the old ones stay, if they are of the same collection. */
export function useHits(route, version) {
  const asked = `${question(route)} ${version}`;
  const [found, setFound] = useState(NONE);
  const [again, setAgain] = useState(0);
  const running = useRef(null);
  const answer = found.asked === asked ? found : kept.get(asked);
  const fetchMore = async old => {
    const control = new AbortController();
    running.current?.abort();
    running.current = control;
    setFound(was => ({ ...was, isLoading: true }));
    try {
      const page = await fetchPage(route, old, control.signal);
      const told = { asked, of: question(route), collection: route.collection, ...joined(old, page), hasMore: page.hasMore, seconds: page.seconds, isSearch: activeParts(route).length > 0 };
      kept.set(asked, told);
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
      if (!control.signal.aborted) setFound(told);
    } catch (error) {
      if (!control.signal.aborted) setFound(was => ({ ...(old.hits.length ? was : NONE), asked, error, isLoading: false }));
    } finally {
      if (running.current === control) running.current = null;
    }
  };
  useEffect(() => {
    running.current?.abort();
    running.current = null;
    if (!route.collection) return;
    if (kept.has(asked)) setFound(kept.get(asked)); else fetchMore(NONE);
  }, [asked, again]);
  const shown = answer || (found.collection === route.collection ? found : NONE);
  return {
    ...shown, isStale: !answer, isLoading: shown.isLoading || (!answer && Boolean(route.collection)),
    more: () => { if (answer?.hasMore && !answer.error && !running.current) fetchMore(answer); },
    retry: () => { kept.delete(asked); setFound(was => ({ ...was, error: null, asked: "" })); setAgain(count => count + 1); },
  };
}

// ---- drawing ----------------------------------------------------------------------------------------

const GAP = 16, SHOWN = 900;
const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);

/** Measure: how many columns of which size go into the width. */
function useLayout(list) {
  const [layout, setLayout] = useState({ columns: 4, width: 240, row: 280 });
  useLayoutEffect(() => {
    const measure = () => {
      const whole = list.current.clientWidth, unit = rem();
      if (!whole) return;
      const gap = whole < 40 * unit ? 10 : GAP;
      const least = (whole < 40 * unit ? 10 : whole < 70 * unit ? 14 : 15.5) * unit;
      const columns = Math.max(1, Math.floor((whole + gap) / (least + gap)));
      const width = (whole - gap * (columns - 1)) / columns;
      setLayout({ columns, width, gap, figure: width * .76, row: width * .76 + 3.6 * unit });
    };
    const observer = new ResizeObserver(measure);
    observer.observe(list.current);
    measure();
    return () => observer.disconnect();
  }, []);
  return layout;
}

/** Which rows are in sight, a screen more on either side. */
function useSight(list, pitch) {
  const [sight, setSight] = useState([0, 8]);
  useEffect(() => {
    let waiting = 0;
    const look = () => {
      waiting = 0;
      const top = -list.current.getBoundingClientRect().top;
      const from = Math.max(0, Math.floor((top - innerHeight) / pitch)), to = Math.max(8, Math.ceil((top + 2 * innerHeight) / pitch));
      setSight(old => (old[0] === from && old[1] === to ? old : [from, to]));
    };
    const soon = () => { waiting ||= requestAnimationFrame(look); };
    addEventListener("scroll", soon, { passive: true });
    addEventListener("resize", soon);
    look();
    return () => { removeEventListener("scroll", soon); removeEventListener("resize", soon); cancelAnimationFrame(waiting); };
  }, [pitch]);
  return sight;
}

export function Grid({ route, found, at, setAt, label }) {
  const list = useRef(), wants = useRef(false);
  const { columns, width, gap = GAP, figure, row } = useLayout(list);
  const pitch = row + gap;
  const [from, to] = useSight(list, pitch);
  const { hits } = found, rows = Math.ceil(hits.length / columns);
  const current = Math.min(at, hits.length - 1);
  const hadFocus = list.current?.contains(document.activeElement);  // before the document changes
  useEffect(() => { if (to >= rows - 2) found.more(); }, [to, rows, found.hasMore, found.fetched, found.isLoading]);
  // A card that moves or goes loses the focus: while the list has it, it is at the current hit.
  useLayoutEffect(() => {
    const card = list.current.querySelector(`[data-at="${current}"]`);
    if (wants.current || (hadFocus && !card?.parentNode.contains(document.activeElement))) card?.focus({ preventScroll: true });
    wants.current = false;
  });
  const move = to => {
    const next = Math.max(0, Math.min(hits.length - 1, to));
    wants.current = true;
    setAt(next);
    const top = list.current.getBoundingClientRect().top + Math.floor(next / columns) * pitch;
    const head = document.querySelector(".head")?.offsetHeight || 0;
    if (top < head + 8) scrollBy(0, top - head - 12);
    else if (top + row > innerHeight - 8) scrollBy(0, top + row - innerHeight + 16);
  };
  const keys = event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "range") return;
    const hit = hits[current];
    const act = {
      ArrowRight: () => move(current + 1), ArrowLeft: () => move(current - 1),
      ArrowDown: () => move(current + columns), ArrowUp: () => (current < columns ? document.getElementById("words").focus() : move(current - columns)),
      Home: () => move(0), End: () => move(hits.length - 1),
      PageDown: () => move(current + columns * 3), PageUp: () => move(current - columns * 3),
      "+": () => addPart({ kind: "id", value: hit.key, weight: 1 }), "-": () => addPart({ kind: "id", value: hit.key, weight: -1 }),
      m: () => onlyPart({ kind: "id", value: hit.key }), w: () => route.parts.length && go({ item: hit.key, why: true }),
      p: () => toggleHit(route.collection, hit),
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  };
  const drawn = [], first = from * columns;
  for (let k = first; k < Math.min(hits.length, (to + 1) * columns); k++) drawn.push(k);
  if (current >= 0 && !drawn.includes(current)) drawn[current < first ? "unshift" : "push"](current);
  return html`
    <ul ref=${list} class=${`hits ${found.isStale ? "stale" : ""}`} role="list" aria-label=${label} aria-busy=${found.isLoading ? "true" : "false"} onKeyDown=${keys}
      onfocusin=${event => setAt(Number(event.target.closest(".card").querySelector("[data-at]").dataset.at))}
      style=${{ height: `${Math.max(0, rows * pitch - gap)}px`, "--figure": `${figure}px` }}>
      ${drawn.map(k => html`
        <li key=${hits[k].key} class="card" aria-setsize=${found.hasMore ? -1 : hits.length} aria-posinset=${k + 1}
          style=${{ width: `${width}px`, height: `${row}px`, transform: `translate(${k % columns * (width + gap)}px, ${Math.floor(k / columns) * pitch}px)` }}>
          <${Card} hit=${hits[k]} route=${route} k=${k} isCurrent=${k === current} width=${width} />
        </li>`)}
    </ul>`;
}

export function label(hit) {
  const what = `${hit.title}, ${NAME[hit.modality]}`;
  return hit.score === undefined ? what : `${what}, score ${hit.score.toFixed(2)}, ${meaning(hit.score)}`;
}

export function Card({ hit, route, k, isCurrent, width = 300 }) {
  const { collection } = route, tab = isCurrent ? 0 : -1, isNarrow = width < 230;
  const open = () => go({ item: hit.key, why: false });
  const tools = [
    ["plus", `Add ${hit.title} to the query`, "More of this (+)", () => addPart({ kind: "id", value: hit.key, weight: 1 })],
    ["minus", `Subtract ${hit.title} from the query`, "Less of this (−)", () => addPart({ kind: "id", value: hit.key, weight: -1 })],
    ["like", `More like ${hit.title}`, "More like this (m)", () => onlyPart({ kind: "id", value: hit.key })],
    ...(activeParts(route).length ? [["why", `Why ${hit.title}?`, "Why? (w)", () => go({ item: hit.key, why: true })]] : []),
  ];
  return html`
    <button type="button" class="open" data-at=${k} tabindex=${tab} aria-label=${label(hit)} onClick=${open}></button>
    <div class=${`figure ${hit.modality}`}><${Figure} hit=${hit} collection=${collection} width=${width} /></div>
    <div class="tools" role="group" aria-label=${hit.title}>${tools.map(([icon, said, title, act]) => html`
      <button type="button" tabindex=${tab} aria-label=${said} title=${title} onClick=${act}><${Icon} name=${icon} /></button>`)}</div>
    <div class="told" aria-hidden="true">
      <p class="title"><i class=${`kind ${hit.modality}`}></i><bdi>${hit.title}</bdi></p>
      ${hit.score === undefined ? html`<p class="score"><bdi>${NAME[hit.modality]}</bdi></p>` : html`
        <p class="score" title=${`Score ${hit.score.toFixed(2)}: ${meaning(hit.score)}`}><b>${signed(hit.score)}</b>
          <span class="means">${isWeak(hit.score) ? "weaker than most pairs" : isNarrow ? `over ${percent(hit.score)}` : `stronger than ${percent(hit.score)} of pairs`}</span>
          <span class="cosine">cosine ${hit.cosine.toFixed(3)}</span></p>`}
    </div>`;
}

function Figure({ hit, collection, width }) {
  if (hit.modality === "text" || !hit.has_original) return html`<${Passage} hit=${hit} />`;
  if (hit.modality === "audio") return html`<${Player} collection=${collection} hit=${hit} />`;
  return html`<${Picture} src=${api.thumbnail(collection, hit.key, width * devicePixelRatio > 300 ? 512 : 256)} isCutout=${hit.media_type !== "image/jpeg"} />`;
}

// A photo fills its place unless that would cut much of it off; what may be a cutout is shown whole.
function Picture({ src, isCutout }) {
  const [state, setState] = useState("loading");
  const settle = ({ target: { naturalWidth: wide, naturalHeight: tall } }) => setState(isCutout ? "cutout" : wide / tall > 1 && wide / tall < 2 ? "filled" : "whole");
  return html`<img class=${state} src=${src} alt="" decoding="async" draggable=${false} onLoad=${settle}
    onError=${() => setState("missing")} />${state === "missing" && html`<p class="none">The picture is not there any more.</p>`}`;
}

// Of a text of several passages the hit has the one that answers.
function Passage({ hit }) {
  if (!hit.text) return html`<p class="none">${hit.modality === "text" ? "Its text is not kept here." : `The ${NAME[hit.modality]} itself is not kept here.`}</p>`;
  const isPart = hit.span?.unit === "char";
  return html`<p class="passage" dir="auto">${isPart && hit.span.start > 0 ? "… " : ""}${hit.text.slice(0, SHOWN).trim()}${isPart ? " …" : ""}</p>`;
}
