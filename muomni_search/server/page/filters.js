// Which modality, and which metadata: tabs, chips from the fields that there are, and a filter in words.
import { Icon } from "./icons.js";
import { KINDS, go, hasFilter } from "./state.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact.js";
import { NAMES, count, value as shown } from "./words.js";

export function Tabs({ route, counts }) {
  const names = ["all", ...KINDS];
  const keys = event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = names[(names.indexOf(route.tab) + step + names.length) % names.length];
    go({ tab: next });
    document.getElementById(`tab-${next}`).focus();
  };
  return html`
    <div class="tabs" role="tablist" aria-label="What to show" onKeyDown=${keys}>${names.map(name => html`
      <button type="button" role="tab" id=${`tab-${name}`} aria-selected=${name === route.tab ? "true" : "false"} aria-controls="found"
        tabindex=${name === route.tab ? 0 : -1} onClick=${() => go({ tab: name })}>${NAMES[name]} ${counts && html`<span class="number">${counts[name]}</span>`}</button>`)}
    </div>`;
}

const kindOf = ({ types }) => {
  const [kind] = Object.entries(types).sort((a, b) => b[1] - a[1])[0] || [];
  return kind;
};
// A field that is another one for nearly every item tells nothing as a list of values.
const isUseful = field => kindOf(field) === "number" || (field.values.length > 0 && (field.values[0].items > 1 || field.values.length <= 12));

const set = (route, name, filter) => {
  const filters = { ...route.filters };
  const isEmpty = !filter || (Array.isArray(filter) ? !filter.length : filter.has ? !filter.has.length : filter.from === undefined && filter.to === undefined);
  if (isEmpty) delete filters[name]; else filters[name] = filter;
  go({ filters });
};
const chosen = filter => (Array.isArray(filter) ? filter : filter?.has || []);
const nameOf = name => name.replaceAll('"', "");

export function Filters({ route, fields, problem }) {
  const names = Object.keys(fields || {}).filter(name => isUseful(fields[name]) || route.filters[name]);
  return html`
    <section class="filters" id="filters" aria-label="Filters">
      <div class="fields">${names.map(name => html`<${Field} key=${name} name=${name} field=${fields[name]} route=${route} />`)}
        <label class="check" title="Hide what may be there by chance: one question of ten without an answer still gets one"><input type="checkbox" checked=${route.sure} onChange=${event => go({ sure: event.target.checked })} /> Only clear matches</label></div>
      <${Where} route=${route} problem=${problem} fields=${fields} />
    </section>`;
}

function Field({ name, field, route }) {
  const menu = useRef(), filter = route.filters[name], kind = kindOf(field), isNumber = kind === "number";
  const isSet = filter !== undefined;
  useEffect(() => {
    const outside = event => { if (menu.current?.open && !menu.current.contains(event.target)) menu.current.open = false; };
    addEventListener("pointerdown", outside);
    return () => removeEventListener("pointerdown", outside);
  }, []);
  const keys = event => {
    if (event.key !== "Escape" || !menu.current.open) return;
    event.stopPropagation();
    menu.current.open = false;
    menu.current.querySelector("summary").focus();
  };
  const pick = (value, isOn) => {
    const picked = isOn ? [...chosen(filter), value] : chosen(filter).filter(one => one !== value);
    set(route, name, kind === "array" ? { has: picked } : picked);
  };
  const bound = (which, text) => {
    const { from, to } = filter || {};
    set(route, name, { from, to, [which]: text.trim() === "" || Number.isNaN(Number(text)) ? undefined : Number(text) });
  };
  const numbers = field.values.map(one => one.value).filter(one => typeof one === "number");
  return html`
    <details class="menu" ref=${menu} onKeyDown=${keys}>
      <summary class=${isSet ? "set" : ""}><bdi>${nameOf(name)}</bdi>${isSet && html`<b class="number">${summary(filter)}</b>`}<${Icon} name="down" /></summary>
      <div class="choices" role="group" aria-label=${nameOf(name)}>
        ${isNumber ? html`<p class="range">
          <label>from <input type="number" step="any" value=${filter?.from ?? ""} placeholder=${numbers.length ? Math.min(...numbers) : ""} onChange=${event => bound("from", event.target.value)} /></label>
          <label>to <input type="number" step="any" value=${filter?.to ?? ""} placeholder=${numbers.length ? Math.max(...numbers) : ""} onChange=${event => bound("to", event.target.value)} /></label></p>`
        : field.values.map(({ value, items }) => html`
          <label key=${String(value)}><input type="checkbox" checked=${chosen(filter).includes(value)} onChange=${event => pick(value, event.target.checked)} />
            <bdi>${shown(value)}</bdi><span class="number">${count(items)}</span></label>`)}
        ${isSet && html`<button type="button" class="quiet" onClick=${() => set(route, name)}>Clear</button>`}
      </div>
    </details>`;
}

function summary(filter) {
  if (Array.isArray(filter) || filter.has) return chosen(filter).length === 1 ? shown(chosen(filter)[0]) : chosen(filter).length;
  const { from, to } = filter;
  return from === undefined ? `≤ ${to}` : to === undefined ? `≥ ${from}` : `${from}–${to}`;
}

function Where({ route, problem, fields }) {
  const [text, setText] = useState(route.where);
  useLayoutEffect(() => setText(route.where), [route.where]);  // at once: see query.js
  const first = Object.keys(fields || {}).find(name => /^\w+$/.test(name));
  return html`
    <form class="where" onSubmit=${event => { event.preventDefault(); go({ where: text.trim() }); }}>
      <label for="where">Where</label>
      <div><input id="where" type="text" spellcheck=${false} autocomplete="off" autocapitalize="off" maxlength="10000" value=${text} class=${problem ? "bad" : ""}
        placeholder=${first ? `${first} is not null and not (…)` : "modality = 'image'"} aria-invalid=${problem ? "true" : "false"} aria-describedby=${problem ? "where-wrong" : undefined}
        onInput=${event => setText(event.target.value)} onBlur=${() => go({ where: text.trim() })} />
      ${problem && html`<p id="where-wrong" class="wrong" role="alert">${problem.message} ${problem.hint && html`<span>${problem.hint}</span>`}</p>`}</div>
    </form>`;
}

/** What is filtered by, as chips that a click takes away; they stay when the filters are folded. */
export function Chips({ route }) {
  if (!hasFilter(route)) return null;
  const chip = (said, remove) => html`<li><button type="button" onClick=${remove} aria-label=${`Remove the filter ${said}`}><bdi>${said}</bdi><${Icon} name="close" /></button></li>`;
  return html`
    <ul class="chips" role="list" aria-label="Filters that are set">
      ${Object.entries(route.filters).map(([name, filter]) => (Array.isArray(filter) || filter.has
        ? chosen(filter).map(value => chip(`${nameOf(name)}: ${shown(value)}`, () => {
          const rest = chosen(filter).filter(one => one !== value);
          set(route, name, filter.has ? { has: rest } : rest);
        })) : chip(`${nameOf(name)} ${summary(filter)}`, () => set(route, name))))}
      ${route.where.trim() && chip(route.where.trim(), () => go({ where: "" }))}
      ${route.sure && chip("only clear matches", () => go({ sure: false }))}
      <li><button type="button" class="quiet" onClick=${() => go({ filters: {}, where: "", sure: false })}>Clear all</button></li>
    </ul>`;
}
