// Requests to the server: the one place that knows its errors, and when to come back.

/** Told to the rest of the page: "gone" and "back" (the server), "busy" (seconds), "token". */
export const news = new EventTarget();
const tell = (name, detail) => news.dispatchEvent(new CustomEvent(name, { detail }));

/** Why there is no answer; status 0 when there is no server. */
export class Problem extends Error {
  constructor(told = {}, status = 0, after = 0) {
    super(told.detail || told.title || "The server does not answer.");
    this.status = status;
    this.type = (told.type || "").replace("urn:muomni:", "");
    this.hint = told.hint || "";
    this.errors = told.errors || [];
    this.after = after;
  }
  /** What is wrong, and what to do about it. */
  get said() { return [this.message, this.hint].filter(Boolean).join(" – "); }
}

const TRIES = 5, LONGEST_WAIT = 20;
let isGone = false;

const pause = (seconds, signal) => new Promise((done, stop) => {
  const timer = setTimeout(done, seconds * 1000);
  signal?.addEventListener("abort", () => { clearTimeout(timer); stop(signal.reason); }, { once: true });
});

const problemOf = (status, text, after) => {
  let told = {};
  try { told = JSON.parse(text); } catch { told.detail = `The server answered ${status}.`; }
  return new Problem(told, status, after);
};

function heard() {
  if (isGone) { isGone = false; tell("back"); }
}

function missed() {
  if (!isGone) { isGone = true; tell("gone"); watch(); }
  return new Problem();
}

// Until it answers again, so that the page goes on by itself.
async function watch() {
  while (isGone) {
    await pause(2);
    try { if ((await fetch("/v1/health")).ok) heard(); } catch { /* not yet */ }
  }
}

/** Return the answer's JSON (null when there is none); a full server is asked again when it says so. */
export async function ask(path, { method, json, body, signal } = {}) {
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch(`/v1/${path}`, {
        method: method || (json || body ? "POST" : "GET"), signal, body: json ? JSON.stringify(json) : body,
        headers: json ? { "Content-Type": "application/json" } : {},
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw missed();
    }
    heard();
    if (response.ok) return response.status === 204 ? null : response.json();
    const problem = problemOf(response.status, await response.text(), Number(response.headers.get("Retry-After")) || 0);
    if (problem.status === 401) tell("token");
    if (![429, 503].includes(problem.status) || !problem.after || tries === TRIES) throw problem;
    const wait = Math.min(problem.after, LONGEST_WAIT);
    tell("busy", wait);
    await pause(wait, signal);
    tell("busy", 0);
  }
}

/** Send a form and tell how much of it is through: ``fetch`` does not. */
export function send(path, form, { progress, signal } = {}) {
  return new Promise((done, stop) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/v1/${path}`);
    request.upload.onprogress = event => event.lengthComputable && progress?.(event.loaded / event.total);
    request.onload = () => {
      heard();
      if (request.status < 300) return done(JSON.parse(request.responseText));
      if (request.status === 401) tell("token");
      stop(problemOf(request.status, request.responseText, Number(request.getResponseHeader("Retry-After")) || 0));
    };
    request.onerror = () => stop(missed());
    request.onabort = () => stop(new DOMException("stopped", "AbortError"));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

const at = (collection, rest, key, more = "") =>
  `collections/${encodeURIComponent(collection)}/${rest}${key === undefined ? "" : `?key=${encodeURIComponent(key)}`}${more}`;

// A picture or a sound is named by its upload.
const spelled = asked => ({
  ...asked, parts: asked.parts.map(({ kind, value, weight }) => ({ kind, [kind === "text" || kind === "id" ? "value" : "upload"]: value, weight })),
});

export const collections = () => ask("collections").then(told => told.collections);
export const health = () => ask("health");
export const fields = collection => ask(at(collection, "fields", undefined, "?most=20000")).then(told => told.fields);
export const item = (collection, key) => ask(at(collection, "item", key));
export const remove = (collection, key) => ask(at(collection, "item", key), { method: "DELETE" });
export const search = (collection, asked, signal) => ask(at(collection, "search"), { json: spelled(asked), signal });
export const explain = (collection, asked, signal) => ask(at(collection, "explain"), { json: spelled(asked), signal });
export const map = (collection, signal) => ask(at(collection, "map"), { signal });
export const original = (collection, key) => `/v1/${at(collection, "original", key)}`;
export const thumbnail = (collection, key, size) => `/v1/${at(collection, "thumbnail", key, `&size=${size}`)}`;
export const uploaded = hash => `/v1/uploads/${encodeURIComponent(hash)}`;
export const additions = collection => at(collection, "items");

export function items(collection, { where, modality, after, limit, signal }) {
  const query = new URLSearchParams({ limit });
  if (where) query.set("where", where);
  if (after) query.set("after", after);
  for (const one of modality || []) query.append("modality", one);
  return ask(`${at(collection, "items")}?${query}`, { signal });
}

export const counts = (collection, where, signal) => ask(`${at(collection, "count")}?${new URLSearchParams({ where })}`, { signal });

// The envelopes of sounds, each asked for once.
const waves = new Map();
export function waveform(collection, key) {
  const path = at(collection, "waveform", key);
  if (!waves.has(path)) waves.set(path, ask(path).catch(error => { waves.delete(path); throw error; }));
  return waves.get(path);
}

// What was uploaded from here, so that it can be sent again when the server has forgotten it.
const sent = new Map();
export async function upload(file, signal) {
  const form = new FormData();
  form.append("file", file, file.name || "pasted");
  const told = await ask("uploads", { body: form, signal });
  sent.set(told.upload, file);
  return { kind: told.kind, value: told.upload };
}
export const nameOf = hash => sent.get(hash)?.name;

/** Send again the uploads of parts that this page still has; return those that it has not, and the items that are gone. */
export async function restore(collection, parts) {
  const lost = [];
  for (const part of parts) {
    if (part.kind === "text") continue;
    if (part.kind === "id") {
      await item(collection, part.value).catch(error => { if (error.status !== 404) throw error; lost.push(part); });
      continue;
    }
    const answer = await fetch(uploaded(part.value), { headers: { Range: "bytes=0-0" } }).catch(() => null);
    if (answer?.ok) continue;
    if (sent.has(part.value)) await upload(sent.get(part.value)); else lost.push(part);
  }
  return lost;
}
