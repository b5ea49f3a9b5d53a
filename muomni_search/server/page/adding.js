// Files that are dropped: to search with, or to become items; and how far the adding of them is.
import * as api from "./api.js";
import { Icon } from "./icons.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { count, plural } from "./words.js";

const BATCH_FILES = 20, BATCH_BYTES = 20e6, LISTED = 100;

// ---- what was dropped -------------------------------------------------------------------------------

/** Return the files of a drop, those in folders with their paths. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].filter(one => one.kind === "file").map(one => ({ entry: one.webkitGetAsEntry?.(), file: one.getAsFile() }));
  const found = [];
  const walk = async (entry, path) => {
    if (entry.isFile) return found.push({ file: await new Promise((done, stop) => entry.file(done, stop)), name: path + entry.name });
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, stop) => reader.readEntries(done, stop));
      if (!some.length) return;
      for (const one of some) if (!one.name.startsWith(".")) await walk(one, `${path}${entry.name}/`);
    }
  };
  for (const { entry, file } of entries) {
    if (entry?.isDirectory) await walk(entry, ""); else if (file) found.push({ file, name: file.name });
  }
  return found;
}

export const isAskable = file => /^(image|audio)\//.test(file.type);

/** Covers the page while files are over it, and asks what they are for. */
export function DropZone({ collection, mayWrite, useFiles, addFiles }) {
  const [isOver, setOver] = useState(false), [zone, setZone] = useState("search");
  useEffect(() => {
    let depth = 0;
    const hasFiles = event => event.dataTransfer?.types.includes("Files");
    const zoneOf = event => event.target.closest?.("[data-drop]")?.dataset.drop || "search";
    const listen = {
      dragenter: event => { if (hasFiles(event)) { depth++; event.preventDefault(); setOver(true); } },
      dragleave: event => { if (hasFiles(event) && --depth <= 0) { depth = 0; setOver(false); } },
      dragover: event => { if (hasFiles(event)) { event.preventDefault(); event.dataTransfer.dropEffect = "copy"; setZone(zoneOf(event)); } },
      drop: async event => {
        if (!hasFiles(event)) return;
        event.preventDefault();
        depth = 0;
        setOver(false);
        const isAdding = zoneOf(event) === "add", files = await filesOf(event.dataTransfer);
        if (isAdding) addFiles(files); else useFiles(files.map(one => one.file));
      },
    };
    for (const [name, hear] of Object.entries(listen)) addEventListener(name, hear);
    return () => { for (const [name, hear] of Object.entries(listen)) removeEventListener(name, hear); };
  }, [collection, mayWrite]);
  const dialog = useRef();
  // Above an item that is open; afterwards the focus is where it was.
  useEffect(() => {
    const shown = dialog.current;
    shown?.showModal();
    return () => shown?.close();
  }, [isOver]);
  if (!isOver) return null;
  return html`
    <dialog ref=${dialog} class="drop" aria-label="Drop files" onClose=${() => setOver(false)}>
      <div data-drop="search" class=${zone === "search" ? "on" : ""}><${Icon} name="search" /><p>Search with it</p><span>pictures and sounds</span></div>
      ${mayWrite && collection && html`<div data-drop="add" class=${zone === "add" ? "on" : ""}><${Icon} name="add" /><p>Add to <bdi>${collection}</bdi></p><span>pictures, sounds, texts, folders</span></div>`}
    </dialog>`;
}

// ---- adding -----------------------------------------------------------------------------------------

const empty = { state: "none", total: 0, done: 0, part: 0, added: 0, updated: 0, unchanged: 0, failures: [], collection: "" };

/** Return [progress, add, stop, close]: files go in some at a time, so that each step is safe. */
export function useAdding(changed) {
  const [told, setTold] = useState(empty);
  const queue = useRef([]), control = useRef(null);
  const add = (files, collection) => {
    if (!files.length) return;
    const isOn = Boolean(control.current);
    queue.current.push(...files.map(one => ({ ...one, collection })));
    setTold(old => (isOn ? { ...old, total: old.total + files.length } : { ...empty, state: "on", total: files.length, collection }));
    if (!isOn) work();
  };
  const work = async () => {
    control.current = new AbortController();
    while (queue.current.length && !control.current.signal.aborted) {
      const batch = [queue.current.shift()];
      let bytes = batch[0].file.size;
      while (queue.current.length && batch.length < BATCH_FILES && bytes + queue.current[0].file.size <= BATCH_BYTES && queue.current[0].collection === batch[0].collection) {
        bytes += queue.current[0].file.size;
        batch.push(queue.current.shift());
      }
      const form = new FormData();
      for (const { file, name } of batch) form.append("files", file, name);
      form.append("names", JSON.stringify(batch.map(({ name }) => name)));  // a form spells " as %22
      try {
        const report = await sendPatiently(batch[0].collection, form, part => setTold(old => ({ ...old, part: part * batch.length })));
        setTold(old => ({
          ...old, done: old.done + batch.length, part: 0, added: old.added + report.added, updated: old.updated + report.updated,
          unchanged: old.unchanged + report.unchanged + report.moved, failures: [...old.failures, ...report.failures.map(one => ({ ...one, file: batch.find(({ name }) => name === one.key) }))],
        }));
        changed();
      } catch (error) {
        if (control.current.signal.aborted) break;
        // A file that is gone from the disk, a full disk, a server that left: nothing of this batch is in.
        const isOver = error.status === 0 || error.status === 507 || error.status === 401 || error.status === 403;
        const lost = isOver ? [...batch, ...queue.current.splice(0)] : batch;
        setTold(old => ({ ...old, done: old.done + lost.length, part: 0, failures: [...old.failures, ...lost.map(one => ({ key: one.name, error: error.message, hint: error.hint, file: one, again: true }))] }));
      }
    }
    const isStopped = control.current.signal.aborted;
    queue.current = [];
    control.current = null;
    setTold(old => ({ ...old, state: isStopped ? "stopped" : "done" }));
    changed();
  };
  const sendPatiently = async (collection, form, progress) => {
    for (let tries = 1; ; tries++) {
      try {
        return await api.send(api.additions(collection), form, { progress, signal: control.current.signal });
      } catch (error) {
        if (![409, 429, 503].includes(error.status) || !error.after || tries === 5) throw error;
        await new Promise(done => setTimeout(done, Math.min(20, error.after) * 1000));
      }
    }
  };
  const again = () => {
    const files = told.failures.filter(one => one.again).map(one => one.file);
    setTold(old => ({ ...old, failures: old.failures.filter(one => !one.again) }));
    add(files, told.collection);
  };
  return { told, add, again, stop: () => control.current?.abort(), close: () => setTold(empty) };
}

export function AddPanel({ adding: { told, again, stop, close } }) {
  if (told.state === "none") return null;
  const isOn = told.state === "on", { failures } = told;
  const results = [[told.added, "added"], [told.updated, "updated"], [told.unchanged, "already there"], [failures.length, "failed"]].filter(([many]) => many).map(([many, what]) => `${count(many)} ${what}`).join(", ");
  return html`
    <aside class="adding" aria-label="Files that are added">
      <header><h2>${isOn ? `Adding ${plural(told.total, "file")} to ` : told.state === "stopped" ? "Stopped adding to " : "Added to "}<bdi>${told.collection}</bdi></h2>
        ${isOn ? html`<button type="button" onClick=${stop}>Stop</button>` : html`<button type="button" class="bare" onClick=${close} aria-label="Close"><${Icon} name="close" /></button>`}</header>
      ${isOn && html`<progress max=${told.total} value=${told.done + told.part * .9} aria-label="Progress"></progress>`}
      <p class="soft" role="status">${isOn ? `${count(told.done)} of ${count(told.total)}${results && ` · ${results}`}` : results || "Nothing was added."}</p>
      ${failures.length > 0 && html`
        <ul role="list" class="failures" tabindex="0" aria-label="Files that failed">${failures.slice(0, LISTED).map((one, k) => html`
          <li key=${k}><b><bdi>${one.key || "a file"}</bdi></b><span>${one.error}</span>${one.hint && html`<small>${one.hint}</small>`}</li>`)}
          ${failures.length > LISTED && html`<li>and ${count(failures.length - LISTED)} more</li>`}</ul>
        ${!isOn && failures.some(one => one.again) && html`<button type="button" onClick=${again}>Try again</button>`}`}
    </aside>`;
}
