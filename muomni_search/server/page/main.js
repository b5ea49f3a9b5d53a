// The page: what is shown is the address (state.js); this file puts the parts of it together.
import { AddPanel, DropZone, isAskable, useAdding } from "./adding.js";
import * as api from "./api.js";
import { Chips, Filters, Tabs } from "./filters.js";
import { Icon } from "./icons.js";
import { ItemDialog } from "./item.js";
import { MapView } from "./map.js";
import { SearchBox, Sum } from "./query.js";
import { Grid, forgetAnswers, label, useHits } from "./results.js";
import { Recorder, stop, toWav } from "./sound.js";
import { KINDS, MOST_PARTS, activeParts, addPart, filterOf, go, hasFilter, isPlain, now, useRoute } from "./state.js";
import { html, render, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import { count, partName, plural } from "./words.js";

const TEXT_QUERY = 2000;
const CHOSEN = "muomni.collection";

// The collection that was looked at last; a browser may refuse to keep anything.
function remembered() { try { return localStorage.getItem(CHOSEN); } catch { return null; } }
function remember(name) { try { localStorage.setItem(CHOSEN, name); } catch { /* then not */ } }

// ---- what the server has ------------------------------------------------------------------------------

/** The collections, and of the chosen one its fields; anew when ``version`` changes, or ``look`` is called. */
function useServer(route, version) {
  const [looks, setLooks] = useState(0);
  const [told, setTold] = useState({ collections: null, error: null, mayWrite: false });
  const [fields, setFields] = useState({ of: "", fields: {} });
  const { collection } = route;
  useEffect(() => {
    let isHere = true;
    Promise.all([api.collections(), api.health()]).then(
      ([collections, health]) => isHere && setTold({ collections, mayWrite: !health.read_only, error: null }),
      error => isHere && setTold(old => ({ ...old, error })));
    return () => { isHere = false; };
  }, [version, looks]);
  useEffect(() => {
    if (!collection) return;
    let isHere = true;
    api.fields(collection).then(fields => isHere && setFields({ of: collection, fields }), () => isHere && setFields({ of: collection, fields: {} }));
    return () => { isHere = false; };
  }, [collection, version]);
  const known = told.collections?.find(one => one.name === collection);
  return { ...told, known, fields: fields.of === collection ? fields.fields : {}, look: () => setLooks(one => one + 1) };
}

/** How many items each tab has: of the collection, or of what the filter lets through once that is known to be one. */
function useCounts(route, version, known, isReady) {
  const [counted, setCounted] = useState({ of: "", counts: null });
  const where = filterOf(route), asked = `${route.collection} ${where} ${version}`;
  useEffect(() => {
    if (!where || !isReady || counted.of === asked) return;
    const control = new AbortController();
    api.counts(route.collection, where, control.signal).then(counts => setCounted({ of: asked, counts }), () => {});
    return () => control.abort();
  }, [asked, isReady]);
  const own = where ? counted.of === asked && counted.counts : known;
  return own && { all: count(own.items), ...Object.fromEntries(KINDS.map(kind => [kind, count(own[kind])])) };
}

// ---- the page -----------------------------------------------------------------------------------------

// Of each collection the hits that were seen: by their keys {title, modality}, to call the parts of a query by.
const seenIn = new Map();

function useSeen(collection, hits) {
  return useMemo(() => {
    const seen = seenIn.get(collection) || new Map();
    seenIn.set(collection, seen);
    for (const { key, title, modality } of hits) seen.set(key, { title, modality });
    return seen;
  }, [collection, hits]);
}

function App() {
  const route = useRoute();
  const [version, setVersion] = useState(0), [notice, setNotice] = useState(null), [place, setPlace] = useState({ of: "", key: "", k: 0 });
  const [busy, setBusy] = useState(""), [isRecording, setRecording] = useState(false), [asksToken, setAsksToken] = useState(false), [helps, setHelps] = useState(false);
  const [trouble, setTrouble] = useState({ gone: false, busy: 0 }), [showsFilters, setShowsFilters] = useState(hasFilter(route));
  const channel = useRef(null), file = useRef();
  const server = useServer(route, version);
  const found = useHits(server.known ? route : { ...route, collection: "" }, version);
  const counts = useCounts(route, version, server.known, !found.isStale && !found.error);
  const seen = useSeen(route.collection, found.hits);
  const at = placeIn(found, place), setAt = k => setPlace({ of: found.of, key: found.hits[k]?.key, k });

  const changed = said => {
    forgetAnswers();
    setVersion(one => one + 1);
    channel.current?.postMessage(route.collection);
    if (typeof said === "string") setNotice({ said });
  };
  const adding = useAdding(changed);

  // Another tab may have changed a collection.
  useEffect(() => {
    channel.current = new BroadcastChannel("muomni");
    channel.current.onmessage = () => { forgetAnswers(); setVersion(one => one + 1); };
    const hear = {
      gone: () => setTrouble(old => ({ ...old, gone: true })), busy: event => setTrouble(old => ({ ...old, busy: event.detail })), token: () => setAsksToken(true),
      back: () => { setTrouble({ gone: false, busy: 0 }); forgetAnswers(); setVersion(one => one + 1); },
    };
    for (const [name, act] of Object.entries(hear)) api.news.addEventListener(name, act);
    return () => { channel.current.close(); for (const [name, act] of Object.entries(hear)) api.news.removeEventListener(name, act); };
  }, []);

  // What is not found may have been all of a collection.
  useEffect(() => { if (found.error?.status === 404) server.look(); }, [found.error]);

  // Without a collection in the address: the one that was looked at last, or the first.
  useEffect(() => {
    if (!server.collections) return;
    if (!route.collection && server.collections.length) {
      const names = server.collections.map(one => one.name), last = remembered();
      go({ collection: names.includes(last) ? last : names[0] }, "replace");
    }
    if (server.known) remember(route.collection);
  }, [server.collections, route.collection]);
  useEffect(() => { document.title = titleOf(route, seen); });
  const whereProblem = found.error && route.where && (found.error.status === 422 || found.error.status === 400) && !found.error.lost ? found.error : null;
  useEffect(() => { if (whereProblem) setShowsFilters(true); }, [whereProblem]);

  const useFiles = async files => {
    const parts = [];
    for (const one of files) {
      setBusy(`Reading ${one.name || "the picture"}…`);
      try { parts.push({ ...(await asPart(one)), weight: 1 }); } catch (error) { setNotice({ said: `${one.name || "It"} cannot be searched with: ${error.message}`, isWrong: true }); }
    }
    setBusy("");
    if (!parts.length) return;
    const isSum = now().sum || now().parts.length > 1, all = isSum ? [...now().parts, ...parts] : parts;
    if (all.length > MOST_PARTS) dispatchEvent(new Event("fullsum"));
    go({ parts: all.slice(0, MOST_PARTS), sum: isSum, item: "", why: false });
  };
  const addFiles = files => adding.add(files, now().collection);

  useEffect(() => {
    const paste = event => {
      const files = [...(event.clipboardData?.files || [])].filter(isAskable);
      if (files.length) { event.preventDefault(); useFiles(files); return; }
      if (event.target.closest?.("input, textarea, dialog") || document.querySelector("dialog[open]")) return;
      const value = (event.clipboardData?.getData("text/plain") || "").trim().slice(0, TEXT_QUERY);
      if (!value) return;
      if (isPlain(now())) go({ parts: [{ kind: "text", value, weight: 1 }], item: "", why: false });
      else addPart({ kind: "text", value, weight: 1 });
    };
    const full = () => setNotice({ said: `A query has ${MOST_PARTS} parts at most: take one away first.`, isWrong: true });
    const keys = event => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select, dialog") || document.querySelector("dialog[open]")) return;
      const tabs = ["all", ...KINDS];
      const act = {
        "/": () => { const box = document.getElementById("words"); box.focus(); box.select(); }, "?": () => setHelps(true),
        Escape: () => { stop(); document.getElementById("words").focus(); }, v: () => go({ view: now().view === "map" ? "grid" : "map" }),
        f: () => setShowsFilters(old => !old), ...Object.fromEntries(tabs.map((name, k) => [String(k + 1), () => go({ tab: name })])),
      }[event.key];
      if (act && !event.defaultPrevented && !(event.target.tagName === "CANVAS" && event.key !== "/" && event.key !== "?")) { event.preventDefault(); act(); }
      if (!act && event.key.startsWith("Arrow") && event.target === document.body && !event.defaultPrevented) document.querySelector('.hits .open[tabindex="0"]')?.focus({ preventScroll: true });
    };
    const hear = { paste, keydown: keys, fullsum: full };
    for (const [name, act] of Object.entries(hear)) addEventListener(name, act);
    return () => { for (const [name, act] of Object.entries(hear)) removeEventListener(name, act); };
  }, []);

  // Where an item was closed, the focus goes back to its hit.
  const opened = useRef("");
  useEffect(() => {
    const key = opened.current;
    opened.current = route.item;
    const k = found.hits.findIndex(hit => hit.key === key);
    if (!key || route.item) return;
    if (k >= 0) setAt(k);
    requestAnimationFrame(() => requestAnimationFrame(() => document.querySelector('.hits .open[tabindex="0"], .map canvas')?.focus({ preventScroll: true })));
  }, [route.item]);
  const summary = useSummary(route, found, server);
  return html`
    <a class="skip" href="#found" onClick=${event => { event.preventDefault(); document.querySelector('.hits .open[tabindex="0"]')?.focus(); }}>Skip to the results</a>
    <header class="head">
      <a class="brand" href="#" onClick=${event => { event.preventDefault(); go({ parts: [], sum: false, tab: "all", filters: {}, where: "", sure: false, view: "grid", item: "", at: "" }); }}>
        <svg viewBox="0 0 32 32" aria-hidden="true"><rect x="2" y="16" width="12" height="12" rx="2" class="image" /><path d="M16 2l7.5 12.5h-15z" class="audio" /><circle cx="23.5" cy="22" r="6.5" class="text" /></svg><span>muomni</span></a>
      <${SearchBox} route=${route} useFiles=${useFiles} record=${() => setRecording(true)} />
      <div class="side">
        ${server.collections?.length > 0 && html`<${Chooser} collections=${server.collections} route=${route} />`}
        ${server.mayWrite && server.known && html`<button type="button" class="add" onClick=${() => file.current.click()} title="Add files to this collection"><${Icon} name="add" /><span>Add</span></button>
          <input ref=${file} id="add-files" type="file" class="aside" tabindex="-1" aria-hidden="true" multiple onChange=${event => { addFiles([...event.target.files].map(one => ({ file: one, name: one.name }))); event.target.value = ""; }} />`}
        <button type="button" class="bare" onClick=${() => setHelps(true)} aria-label="Help and keys" title="Help and keys (?)"><${Icon} name="why" /></button>
      </div>
    </header>
    ${trouble.gone && server.collections && html`<p class="banner wrong" role="alert"><span class="spinner"></span> The server does not answer. This page goes on when it is back.</p>`}
    ${trouble.busy > 0 && !trouble.gone && html`<p class="banner" role="status"><span class="spinner"></span> The server has much to do; asking again in ${plural(trouble.busy, "second")}.</p>`}
    <main>
      <h1 class="aside">Search${route.collection && html` in <bdi>${route.collection}</bdi>`}</h1>
      ${server.known ? html`
        <${Sum} route=${route} seen=${seen} busy=${busy} />
        <div class="toolbar"><${Tabs} route=${route} counts=${counts} />
          <div class="views"><button type="button" aria-expanded=${showsFilters ? "true" : "false"} aria-controls="filters" onClick=${() => setShowsFilters(!showsFilters)}><${Icon} name="filter" /><span>Filter</span></button>
            <div class="switch" role="group" aria-label="View">${[["grid", "Results"], ["map", "Map"]].map(([name, said]) => html`
              <button type="button" aria-pressed=${route.view === name ? "true" : "false"} onClick=${() => go({ view: name })}><${Icon} name=${name} /><span>${said}</span></button>`)}</div></div></div>
        ${showsFilters && html`<${Filters} route=${route} fields=${server.fields} problem=${whereProblem} />`}
        <${Chips} route=${route} />
        <div id="found" class="found" role="tabpanel" aria-labelledby=${`tab-${route.tab}`}>
          ${route.view === "map" && server.known.items > 0 ? html`<${MapView} key=${route.collection} route=${route} found=${found} version=${version} at=${at} setAt=${setAt} />`
            : html`<${Found} route=${route} found=${found} seen=${seen} server=${server} at=${at} setAt=${setAt} summary=${summary} pick=${() => file.current.click()} />`}
        </div>` : html`<${Nothing} route=${route} server=${server} created=${name => { changed(); go({ collection: name }); }} />`}
    </main>
    <p class="aside" role="status" aria-live="polite">${summary}</p>
    ${route.item && server.known && html`<${ItemDialog} route=${route} found=${found} seen=${seen} mayWrite=${server.mayWrite} changed=${changed} />`}
    ${isRecording && html`<${Recorder} done=${one => { setRecording(false); useFiles([one]); }} close=${() => setRecording(false)} />`}
    ${helps && html`<${Help} mayWrite=${server.mayWrite} close=${() => setHelps(false)} />`}
    ${asksToken && html`<${TokenDialog} done=${() => { setAsksToken(false); changed(); }} />`}
    <${AddPanel} adding=${adding} />
    <${DropZone} collection=${server.known?.name} mayWrite=${server.mayWrite} useFiles=${useFiles} addFiles=${addFiles} />
    ${notice && html`<${Notice} key=${notice.said} notice=${notice} close=${() => setNotice(null)} />`}`;
}

/** Return the part of a query that a file is; a sound that the server does not read is made one that it does. */
async function asPart(file) {
  if (file.type.startsWith("text/")) return { kind: "text", value: (await file.text()).trim().slice(0, TEXT_QUERY) };
  try {
    return await api.upload(file);
  } catch (error) {
    if (![415, 422].includes(error.status) || !/^(audio|video)\//.test(file.type)) throw error;
    let wav;
    try { wav = await toWav(file, file.name); } catch { throw error; }
    return api.upload(wav);
  }
}

/** Return which hit is the current one: it stays the same while the question does, wherever it goes; then the first. */
function placeIn({ of, hits }, place) {
  if (of !== place.of) return 0;
  if (hits[place.k]?.key === place.key) return place.k;
  const k = hits.findIndex(hit => hit.key === place.key);
  return k < 0 ? Math.min(place.k, Math.max(0, hits.length - 1)) : k;
}

function titleOf(route, seen) {
  const said = activeParts(route).map(part => (part.kind === "text" ? part.value.slice(0, 60) : partName(part, seen))).join(" + ");
  return [said, route.collection, "muomni"].filter(Boolean).join(" · ");
}

function useSummary(route, found, server) {
  return useMemo(() => {
    if (!server.known || found.isStale) return "";
    if (found.error) return found.error.message;
    const many = `${count(found.hits.length)}${found.hasMore ? " or more" : ""}`;
    if (!found.isSearch) return `${plural(found.hits.length, "item")}${found.hasMore ? ", and more below" : ""}`;
    return found.hits.length ? `${many} hits. The best: ${label(found.hits[0])}` : "No hits";
  }, [found.asked, found.hits.length, found.isStale, found.error, server.known?.name]);
}

// ---- results and what stands in their place ---------------------------------------------------------------

function Found({ route, found, seen, server, at, setAt, summary, pick }) {
  const { error, hits } = found;
  if (error && !hits.length) return html`<${Failed} route=${route} error=${error} seen=${seen} retry=${found.retry} />`;
  if (!server.known.items) return html`
    <div class="state welcome"><svg viewBox="0 0 120 80" aria-hidden="true"><rect x="8" y="22" width="36" height="36" rx="5" class="image" /><path d="M60 18l18 40H42z" class="audio" /><circle cx="96" cy="40" r="18" class="text" /></svg>
      <h2>${server.known.name} is empty</h2><p>${server.mayWrite ? "Drop pictures, sounds, texts or whole folders anywhere on this page." : "Whoever keeps this collection has not added anything yet."}</p>
      ${server.mayWrite && html`<button type="button" class="main" onClick=${pick}>Choose files</button>`}</div>`;
  if (!hits.length && !found.isLoading) return html`<${NoHits} route=${route} />`;
  if (!hits.length) return html`<ul class="skeleton" aria-hidden="true">${Array.from({ length: 10 }, (_, k) => html`<li key=${k}></li>`)}</ul>`;
  return html`
    ${isBlank(route) && html`<p class="lead">Type words, or drop a picture or a sound anywhere – anything finds anything. Below is all there is.</p>`}
    <${Grid} route=${route} found=${found} at=${at} setAt=${setAt} label=${found.isSearch ? "Hits, the best first" : "Items"} />
    ${error ? html`<p class="end wrong">${error.message} <button type="button" onClick=${found.retry}>Try again</button></p>`
      : found.hasMore ? html`<p class="end" aria-hidden="true"><span class="spinner"></span></p>`
      : found.isSearch && html`<p class="end soft">That is all${found.seconds !== undefined && hits.length <= 60 ? ` – found in ${(found.seconds * 1000).toFixed(0)} ms` : ""}.</p>`}`;
}

const isBlank = route => !route.parts.length && !hasFilter(route) && route.tab === "all";

function NoHits({ route }) {
  const ways = [
    route.sure && ["Show weak matches too", { sure: false }],
    (Object.keys(route.filters).length || route.where) && ["Take the filters away", { filters: {}, where: "" }],
    route.tab !== "all" && ["Look at everything", { tab: "all" }],
  ].filter(Boolean);
  return html`<div class="state"><h2>Nothing here${activeParts(route).length ? " answers this" : ""}</h2>
    <p>${ways.length ? "What is chosen above leaves nothing over." : "Try other words, or a picture or a sound."}</p>
    <p class="buttons">${ways.map(([said, patch]) => html`<button type="button" key=${said} onClick=${() => go(patch)}>${said}</button>`)}</p></div>`;
}

function Failed({ route, error, seen, retry }) {
  if (error.lost) {
    const [{ kind, value }] = error.lost, without = html`<button type="button" onClick=${() => go({ parts: route.parts.filter(part => !error.lost.some(one => one.value === part.value)) })}>Search without it</button>`;
    if (kind === "id") return html`<div class="state" role="alert"><h2><bdi>${partName({ kind, value }, seen)}</bdi> is not here any more</h2><p>It was removed, or renamed.</p><p class="buttons">${without}</p></div>`;
    const what = kind === "image" ? "picture" : "sound";
    return html`<div class="state" role="alert"><h2>The server has forgotten your ${what}</h2>
      <p>What is searched with is kept for a while only. Drop the ${what} here once more.</p>
      <p class="buttons"><button type="button" class="main" onClick=${() => document.getElementById("query-file").click()}>Choose the ${what}</button>${without}</p></div>`;
  }
  if (error.status === 0) return html`<div class="state" role="alert"><h2>The server does not answer</h2><p>Is <code>muomni serve</code> still running? This page goes on by itself when it is back.</p><div class="spinner"></div></div>`;
  const isFilter = route.where && [400, 422].includes(error.status);
  return html`<div class="state" role="alert"><h2>${isFilter ? "The filter cannot be read" : "This search did not work"}</h2>
    ${!isFilter && html`<p>${error.said}</p>`}
    <p class="buttons">${isFilter ? html`<button type="button" onClick=${() => go({ where: "" })}>Search without it</button>` : html`<button type="button" onClick=${retry}>Try again</button>`}</p></div>`;
}

function Nothing({ route, server, created }) {
  const [name, setName] = useState("mine"), [wrong, setWrong] = useState(null);
  if (!server.collections) {
    if (!server.error || server.error.status === 401) return html`<div class="state" role="status"><div class="spinner"></div><p class="aside">Loading</p></div>`;
    return html`<div class="state" role="alert"><h2>The server does not answer</h2><p>${server.error.status ? server.error.message : html`Is <code>muomni serve</code> still running? This page goes on by itself when it is back.`}</p><div class="spinner"></div></div>`;
  }
  if (server.collections.length) return route.collection ? html`
    <div class="state"><h2>There is no collection <bdi>${route.collection}</bdi></h2><p>It was renamed or removed. These are here:</p>
      <p class="buttons">${server.collections.map(one => html`<button type="button" key=${one.name} onClick=${() => go({ collection: one.name })}><bdi>${one.name}</bdi></button>`)}</p></div>` : null;
  const create = async event => {
    event.preventDefault();
    try { created((await api.ask("collections", { json: { name } })).name); } catch (error) { setWrong(error); }
  };
  return html`
    <form class="state welcome" onSubmit=${create}><svg viewBox="0 0 120 80" aria-hidden="true"><rect x="8" y="22" width="36" height="36" rx="5" class="image" /><path d="M60 18l18 40H42z" class="audio" /><circle cx="96" cy="40" r="18" class="text" /></svg>
      <h2>There is no collection yet</h2>
      ${server.mayWrite ? html`<p>Give the first one a name; then drop pictures, sounds and texts on this page.</p>
        <p class="buttons"><label class="aside" for="new-name">Name</label><input id="new-name" type="text" required maxlength="100" value=${name} onInput=${event => setName(event.target.value)} /><button class="main">Make it</button></p>
        ${wrong && html`<p class="wrong" role="alert">${wrong.said}</p>`}` : html`<p><code>muomni add FOLDER</code> makes one.</p>`}
    </form>`;
}

// ---- small parts --------------------------------------------------------------------------------------

function Chooser({ collections, route }) {
  if (collections.length === 1) return html`<span class="only" title="The collection"><bdi>${collections[0].name}</bdi></span>`;
  const choose = event => go({ collection: event.target.value, filters: {}, where: "", item: "", at: "", parts: now().parts.filter(part => part.kind !== "id") });
  return html`<label class="chooser"><span class="aside">Collection</span><select value=${route.collection} onChange=${choose}>${!collections.some(one => one.name === route.collection) && html`<option value=${route.collection}>${route.collection}</option>`}${collections.map(one => html`
    <option key=${one.name} value=${one.name} disabled=${Boolean(one.error)}>${one.name} (${one.error ? "cannot be read" : count(one.items)})</option>`)}</select><${Icon} name="down" /></label>`;
}

function Notice({ notice: { said, isWrong }, close }) {
  useEffect(() => { const timer = setTimeout(close, isWrong ? 12000 : 5000); return () => clearTimeout(timer); }, []);
  return html`<div class=${`notice ${isWrong ? "wrong" : ""}`} role=${isWrong ? "alert" : "status"}><p>${said}</p><button type="button" class="bare" onClick=${close} aria-label="Close"><${Icon} name="close" /></button></div>`;
}

function Dialog({ id, title, close, children, ...rest }) {
  const dialog = useRef();
  useEffect(() => { dialog.current.showModal(); }, []);
  return html`<dialog ref=${dialog} class="small" aria-labelledby=${id} onClose=${close} onClick=${event => { if (event.target === dialog.current) dialog.current.close(); }} ...${rest}>
    <header><h2 id=${id}>${title}</h2><button type="button" class="bare" onClick=${() => dialog.current.close()} aria-label="Close"><${Icon} name="close" /></button></header>${children}</dialog>`;
}

const KEYS = [
  ["/", "to the search box"], ["↓", "from the box into the hits; arrows go on"], ["Enter", "open a hit; ← and → turn pages"],
  ["+  −", "add the hit to the query, or subtract it"], ["m", "more like this"], ["w", "why is it here?"], ["p", "play or stop a sound"],
  ["Shift Enter", "subtract the words in the box, in a sum"], ["1 – 4", "everything, pictures, sounds, texts"], ["f", "filters"], ["v", "map or results"], ["Esc", "close; back to the box"],
];

function Help({ mayWrite, close }) {
  return html`<${Dialog} id="help-title" title="How to search here" close=${close}>
    <p>Anything finds anything: <b>words</b> find sounds, a <b>picture</b> finds texts, a <b>sound</b> finds pictures. Drop a file on the page, paste a picture, or record.</p>
    <p><b>+</b> and <b>−</b> on a hit build a sum: <i>this picture, less “day”, a bit of that sound</i>. Drag the weight of each part, or use the arrow keys on it.</p>
    <p>A <b>score</b> says how far a match stands above what the same query has with everything unrelated: 2.3 is stronger than 99 % of unrelated pairs, whatever they are.${mayWrite ? " Dropped on the right half of the page, files are added to the collection." : ""}</p>
    <dl class="keys">${KEYS.map(([key, does]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${does}</dd></div>`)}</dl><//>`;
}

function TokenDialog({ done }) {
  const dialog = useRef(), [token, setToken] = useState(""), [wrong, setWrong] = useState("");
  useEffect(() => { dialog.current.showModal(); }, []);
  const show = async event => {
    event.preventDefault();
    try { await api.ask("session", { json: { token } }); done(); } catch (error) { setWrong(error.status === 401 ? "This is not the token." : error.message); }
  };
  return html`<dialog ref=${dialog} class="small" aria-labelledby="token-title" onCancel=${event => event.preventDefault()}><form onSubmit=${show}>
    <h2 id="token-title">This server asks for a token</h2><p class="soft">Whoever started it has it. This browser keeps it for seven days.</p>
    <label for="token">Token</label><input id="token" type="password" autocomplete="current-password" required autofocus value=${token} aria-invalid=${wrong ? "true" : "false"} aria-describedby="token-wrong" onInput=${event => setToken(event.target.value)} />
    <p id="token-wrong" class="wrong" role="alert">${wrong}</p><p class="buttons"><button class="main">Enter</button></p></form></dialog>`;
}

const app = document.getElementById("app");
app.replaceChildren();
render(html`<${App} />`, app);
