// What is shown, as an address: everything that a link or the back button brings back.
import { useEffect, useState } from "./vendor/preact.js";

export const KINDS = ["image", "audio", "text"];
export const BLANK = {
  collection: "", parts: [], sum: false, tab: "all", filters: {}, where: "", sure: false, view: "grid", item: "", why: false, at: "",
};
export const MOST_PARTS = 32;  // that the server takes
const PART = /^(?:(-?\d+(?:\.\d+)?)\*)?(text|id|image|audio):(.+)$/s;

/** Return the state of an address' fragment; what is not understood is left out. */
export function read(fragment) {
  const query = new URLSearchParams(fragment.replace(/^#/, ""));
  const parts = query.getAll("p").map(text => PART.exec(text)).filter(Boolean)
    .map(([, weight, kind, value]) => ({ kind, value, weight: weight === undefined ? 1 : Math.max(-2, Math.min(2, Number(weight))) }))
    .slice(0, MOST_PARTS);
  const filters = {};
  for (const [name, text] of query) {
    if (!name.startsWith("f.")) continue;
    try { filters[name.slice(2)] = JSON.parse(text); } catch { /* no filter */ }
  }
  const tab = query.get("tab"), view = query.get("view");
  return {
    collection: query.get("c") || "", parts, sum: query.has("sum"), filters, where: query.get("where") || "",
    tab: KINDS.includes(tab) ? tab : "all", sure: query.has("sure"), view: view === "map" ? "map" : "grid",
    item: query.get("item") || "", why: query.has("why"), at: query.get("at") || "",
  };
}

export function write(state) {
  const query = new URLSearchParams();
  if (state.collection) query.set("c", state.collection);
  for (const { kind, value, weight } of state.parts) query.append("p", `${weight === 1 ? "" : `${weight}*`}${kind}:${value}`);
  if (state.sum) query.set("sum", "1");
  if (state.tab !== "all") query.set("tab", state.tab);
  for (const [name, filter] of Object.entries(state.filters)) query.set(`f.${name}`, JSON.stringify(filter));
  if (state.where) query.set("where", state.where);
  if (state.sure) query.set("sure", "1");
  if (state.view !== "grid") query.set("view", state.view);
  if (state.view === "map" && state.at) query.set("at", state.at);
  if (state.item) query.set("item", state.item);
  if (state.item && state.why) query.set("why", "1");
  return `#${query}`;
}

let current = read(location.hash);
const listeners = new Set();
history.scrollRestoration = "manual";

/** Change what is shown. "push" makes an entry of the history, "replace" goes on with the last one. */
export function go(patch, how = "push") {
  const old = current;
  current = { ...old, ...patch };
  if (write(current) === write(old)) return;
  const isNew = how === "push";
  if (isNew) history.replaceState({ ...history.state, scroll: scrollY }, "");
  const kept = isNew ? { isOver: Boolean(current.item && !old.item) } : history.state;
  history[isNew ? "pushState" : "replaceState"]({ ...kept, scroll: scrollY }, "", write(current));
  if (isNew && question(current) !== question(old)) scrollTo(0, 0);
  for (const one of listeners) one();
}

addEventListener("popstate", event => {
  current = read(location.hash);
  for (const one of listeners) one();
  const to = event.state?.scroll ?? 0;
  requestAnimationFrame(() => requestAnimationFrame(() => scrollTo(0, to)));
});

/** Close the item: a step back where it was opened from here, so that the history does not grow. */
export const closeItem = () => (history.state?.isOver ? history.back() : go({ item: "", why: false }));

export const now = () => current;
export function useRoute() {
  const [, again] = useState(0);
  useEffect(() => {
    const hear = () => again(count => count + 1);
    listeners.add(hear);
    return () => listeners.delete(hear);
  }, []);
  return current;
}

/** Whether the query is plain words, which stand in the box, and no sum, which stands below it. */
export const isPlain = ({ parts, sum }) =>
  !sum && (!parts.length || (parts.length === 1 && parts[0].kind === "text" && parts[0].weight === 1));
export const wordsOf = state => (isPlain(state) ? state.parts[0]?.value || "" : "");
export const activeParts = state => state.parts.filter(part => part.weight !== 0);

/** What of a state decides which hits there are. */
export const question = state => JSON.stringify([state.collection, activeParts(state), state.tab, state.filters, state.where, state.sure]);

/** Add a part to the sum; what is there already grows or shrinks. One too many is told as the event "fullsum". */
export function addPart(part, how) {
  const same = one => one.kind === part.kind && one.value === part.value;
  const old = current.parts.find(same);
  if (!old && current.parts.length >= MOST_PARTS) return void dispatchEvent(new Event("fullsum"));
  const weight = Math.max(-2, Math.min(2, (old?.weight || 0) + part.weight));
  const parts = old
    ? current.parts.map(one => (same(one) ? { ...one, weight } : one)).filter(one => one.weight !== 0)
    : [...current.parts, part];
  go({ parts, sum: false, item: "", why: false }, how);
}
export const onlyPart = part => go({ parts: [{ weight: 1, ...part }], sum: false, item: "", why: false, view: current.view });

const PLAIN_NUMBER = value => typeof value === "number" && Number.isFinite(value);
const spell = value => (typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value));

/** Return the filter of a state as the server reads it. */
export function filterOf({ filters, where }) {
  const terms = [];
  for (const [name, filter] of Object.entries(filters)) {
    if (Array.isArray(filter)) {
      if (filter.length) terms.push(`${name} in (${filter.map(spell).join(", ")})`);
    } else if (filter && typeof filter === "object") {
      if (Array.isArray(filter.has)) terms.push(`(${filter.has.map(one => `${name} contains ${spell(one)}`).join(" or ")})`);
      if (PLAIN_NUMBER(filter.from)) terms.push(`${name} >= ${filter.from}`);
      if (PLAIN_NUMBER(filter.to)) terms.push(`${name} <= ${filter.to}`);
    }
  }
  if (where.trim()) terms.push(terms.length ? `(${where})` : where);
  return terms.join(" and ");
}
export const hasFilter = ({ filters, where, sure }) => Boolean(Object.keys(filters).length || where.trim() || sure);
