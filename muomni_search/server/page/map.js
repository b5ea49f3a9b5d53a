// The space as a map: every item a point, the hits lit, and a list of them beside it.
import * as api from "./api.js";
import { Icon } from "./icons.js";
import { label } from "./results.js";
import { KINDS, go } from "./state.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact.js";
import { NAME, NAMES, count, percent, signed } from "./words.js";

const REACH = 14, DRAG = 4, PICTURES = 60, LISTED = 60;

// ---- fetching: a job makes it, which tells how far it is -------------------------------------------------

function useMap(collection, version) {
  const [told, setTold] = useState({});
  const [again, setAgain] = useState(0);
  useEffect(() => {
    const control = new AbortController();
    let events;
    setTold({ step: "Asking for the map" });
    const load = async () => {
      const answer = await api.map(collection, control.signal);
      if (answer.points) return setTold({ points: answer.points, found: answer.found });
      events = new EventSource(`/v1/jobs/${answer.job}/events`);
      const hear = (name, act) => events.addEventListener(name, event => act(JSON.parse(event.data)));
      hear("progress", job => setTold({ step: job.stage, done: job.done, total: job.total }));
      hear("done", () => { events.close(); load().catch(fail); });
      hear("failed", job => { events.close(); setTold({ error: { message: job.error } }); });
      hear("cancelled", () => { events.close(); setTold({ error: { message: "The map was cancelled." } }); });
    };
    const fail = error => control.signal.aborted || setTold({ error });
    load().catch(fail);
    return () => { control.abort(); events?.close(); };
  }, [collection, version, again]);
  return { ...told, retry: () => setAgain(one => one + 1) };
}

// ---- the view -------------------------------------------------------------------------------------------

export function MapView({ route, found, version, at, setAt }) {
  const { points, found: whole, step, done, total, error, retry } = useMap(route.collection, version);
  const [hover, setHover] = useState("");
  return html`
    <div class="map-view">
      <div class="map">
        ${points ? html`<${Canvas} points=${points} route=${route} found=${found} hover=${hover} setHover=${setHover} />`
          : error ? html`<div class="state"><h2>No map</h2><p>${error.said || error.message}</p>${error.type !== "not-installed" && html`<button type="button" onClick=${retry}>Try again</button>`}</div>`
          : html`<div class="state" role="status"><div class="spinner"></div><p>${step || "Drawing the map"}…</p>
            ${total ? html`<progress max=${total} value=${done} aria-label="Progress"></progress>` : ""}<p class="soft">It is drawn once and kept until the collection changes.</p></div>`}
        ${points && whole > points.length && html`<p class="sample">${count(points.length)} of ${count(whole)} items</p>`}
      </div>
      <${Strip} route=${route} found=${found} hover=${hover} setHover=${setHover} at=${at} setAt=${setAt} />
    </div>`;
}

function Strip({ route, found, hover, setHover, at, setAt }) {
  const list = useRef();
  const shown = found.hits.slice(0, LISTED);
  useEffect(() => {
    if (hover && !list.current.matches(":hover")) list.current.querySelector(`[data-key="${CSS.escape(hover)}"]`)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [hover]);
  const keys = event => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...list.current.querySelectorAll(".open")];
    all[Math.max(0, Math.min(all.length - 1, all.indexOf(document.activeElement) + step))]?.focus();
  };
  return html`
    <ol class="strip" ref=${list} role="list" aria-label="Hits, lit on the map" onKeyDown=${keys} onPointerLeave=${() => setHover("")}>${shown.map((hit, k) => html`
      <li key=${hit.key} data-key=${hit.key} class=${hit.key === hover || hit.key === route.at ? "on" : ""} onPointerEnter=${() => setHover(hit.key)}>
        <button type="button" class="open" aria-label=${label(hit)} onFocus=${() => { setHover(hit.key); setAt(k); }} onClick=${() => (route.at === hit.key ? go({ item: hit.key, why: false }) : go({ at: hit.key }, "replace"))}>
          <span class="thumb">${hit.modality === "image" && hit.has_original ? html`<img src=${api.thumbnail(route.collection, hit.key, 128)} alt="" loading="lazy" />` : html`<i class=${`kind ${hit.modality}`}></i>`}</span>
          <span class="said"><bdi>${hit.title}</bdi>${hit.score !== undefined ? html`<small><b>${signed(hit.score)}</b> over ${percent(hit.score)}</small>` : html`<small>${NAME[hit.modality]}</small>`}</span></button></li>`)}
    </ol>`;
}

function Canvas({ points, route, found, hover, setHover }) {
  const place = useRef(), canvas = useRef(), painter = useRef();
  const [card, setCard] = useState(null);
  useLayoutEffect(() => {
    painter.current = paint(canvas.current, points, route.collection, {
      hover: (point, x, y) => { setHover(point ? point.key : ""); setCard(point ? { point, x, y } : null); },
      open: point => go({ item: point.key, at: point.key, why: false }),
    });
    const observer = new ResizeObserver(() => painter.current.resize());
    observer.observe(place.current);
    return () => { observer.disconnect(); painter.current.end(); };
  }, [points, route.collection]);
  const lit = found.isSearch || route.tab !== "all" ? found.hits.map(hit => hit.key) : null;
  useEffect(() => painter.current.light(lit), [points, lit && lit.join("\n")]);
  useEffect(() => painter.current.mark(hover || route.at), [points, hover, route.at]);
  useEffect(() => { if (route.at) painter.current.centre(route.at); }, [points, route.at]);
  const counts = Object.fromEntries(KINDS.map(kind => [kind, points.filter(one => one.modality === kind).length]));
  return html`
    <div class="place" ref=${place}>
      <canvas ref=${canvas} tabindex="0" role="application" aria-label=${`Map of ${count(points.length)} items`} aria-describedby="map-help"></canvas>
      <p id="map-help" class="aside">Arrow keys move the map, plus and minus zoom, 0 shows all, Enter opens the item nearest to the middle. The hits are listed after the map.</p>
      <ul class="legend" role="list">${KINDS.filter(kind => counts[kind]).map(kind => html`<li key=${kind}><i class=${`kind ${kind}`}></i>${NAMES[kind]} <span class="number">${count(counts[kind])}</span></li>`)}</ul>
      <div class="zoom" role="group" aria-label="Zoom">
        <button type="button" aria-label="Zoom in" onClick=${() => painter.current.zoom(1.6)}><${Icon} name="plus" /></button>
        <button type="button" aria-label="Zoom out" onClick=${() => painter.current.zoom(1 / 1.6)}><${Icon} name="minus" /></button>
        <button type="button" aria-label="Show all" onClick=${() => painter.current.fit()}><${Icon} name="fit" /></button></div>
      ${card && html`<div class="tip" aria-hidden="true" style=${{ left: `${card.x}px`, top: `${card.y}px` }}>
        ${card.point.modality === "image" && html`<img src=${api.thumbnail(route.collection, card.point.key, 256)} alt="" />`}<p><i class=${`kind ${card.point.modality}`}></i><bdi>${card.point.title}</bdi></p></div>`}
    </div>`;
}

// ---- painting -------------------------------------------------------------------------------------------

// Each modality has its shape beside its colour: rows of [from, to] in a square of a side.
function masks(side) {
  const middle = (side - 1) / 2, rows = { image: [], audio: [], text: [] };
  for (let y = 0; y < side; y++) {
    const half = Math.sqrt(Math.max(0, (side / 2) ** 2 - (y - middle) ** 2)), wide = (y + 1) / side * side / 2;
    rows.image.push([0, side]);
    rows.audio.push([Math.round(side / 2 - wide), Math.round(side / 2 + wide)]);
    rows.text.push([Math.round(side / 2 - half), Math.round(side / 2 + half)]);
  }
  return rows;
}

function paint(canvas, points, collection, { hover, open }) {
  const n = points.length, context = canvas.getContext("2d");
  const indexOf = new Map(points.map((point, i) => [point.key, i]));
  const dark = matchMedia("(prefers-color-scheme: dark)"), calm = matchMedia("(prefers-reduced-motion: reduce)");
  let width = 0, height = 0, ratio = 1, scale = 1, fitted = 1, left = 0, top = 0;
  let lit = null, isLit = null, marked = -1, waiting = 0, moving = 0, layer = null;
  const pictures = new Map(), toX = i => left + points[i].x * scale, toY = i => top - points[i].y * scale;
  const radius = () => Math.min(9, Math.max(1.6, 22 / n ** .25) * Math.max(.8, Math.min(2.4, (scale / fitted) ** .3)));

  function fit() {
    const of = name => points.reduce(([low, high], one) => [Math.min(low, one[name]), Math.max(high, one[name])], [Infinity, -Infinity]);
    const [[x0, x1], [y0, y1]] = [of("x"), of("y")];
    scale = fitted = Math.min((width - 80) / Math.max(.01, x1 - x0), (height - 110) / Math.max(.01, y1 - y0));
    left = width / 2 - scale * (x0 + x1) / 2;
    top = height / 2 + 12 + scale * (y0 + y1) / 2;
    redraw();
  }
  function zoom(factor, x = width / 2, y = height / 2) {
    const to = Math.min(fitted * 1000, Math.max(fitted / 3, scale * factor));
    left = x - (x - left) * to / scale; top = y - (y - top) * to / scale; scale = to;
    redraw();
  }
  function centre(key) {
    const i = indexOf.get(key);
    if (i === undefined) return;
    marked = i;
    cancelAnimationFrame(moving);
    const [fromScale, x, y] = [scale, (width / 2 - left) / scale, (top - height / 2) / scale], to = Math.max(scale, fitted * 3), began = performance.now();
    const move = time => {
      const way = calm.matches ? 1 : Math.min(1, Math.max(0, (time - began) / 350)), ease = way * way * (3 - 2 * way);
      scale = fromScale * (to / fromScale) ** ease;
      left = width / 2 - (x + (points[i].x - x) * ease) * scale;
      top = height / 2 + (y + (points[i].y - y) * ease) * scale;
      redraw();
      if (way < 1) moving = requestAnimationFrame(move);
    };
    moving = requestAnimationFrame(move);
  }
  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < n; i++) {
      const dx = toX(i) - x, dy = toY(i) - y, far = (dx * dx + dy * dy) * (isLit && !isLit[i] ? 3 : 1);
      if (far < least) { least = far; best = i; }
    }
    return best;
  }
  function resize() {
    const isFirst = !width;
    const [oldWidth, oldHeight] = [width, height];
    ({ clientWidth: width, clientHeight: height } = canvas);
    ratio = devicePixelRatio || 1;
    canvas.width = width * ratio; canvas.height = height * ratio;
    layer = null;
    if (isFirst) return fit();
    left += (width - oldWidth) / 2; top += (height - oldHeight) / 2;
    redraw();
  }

  // Written straight into pixels: drawing 50,000 shapes one by one takes a canvas too long.
  function paintPoints(colours) {
    const { width: w, height: h } = canvas;
    layer ||= context.createImageData(w, h);
    const pixels = new Uint32Array(layer.data.buffer), side = Math.max(2, Math.round(1.8 * radius() * ratio)), half = side >> 1, shape = masks(side);
    pixels.fill(0);
    for (let i = 0; i < n; i++) {
      if (isLit?.[i]) continue;
      const x = Math.round(toX(i) * ratio) - half, y = Math.round(toY(i) * ratio) - half;
      if (x < 0 || y < 0 || x + side > w || y + side > h) continue;
      const { modality } = points[i], ink = (isLit ? colours.faint : 230) << 24 | colours[modality], rows = shape[modality];
      for (let row = 0; row < side; row++) pixels.fill(ink, (y + row) * w + x + rows[row][0], (y + row) * w + x + rows[row][1]);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.putImageData(layer, 0, 0);
  }
  const image = i => {
    if (!pictures.has(i)) {
      const one = new Image();
      one.onload = redraw;
      one.src = api.thumbnail(collection, points[i].key, 128);
      pictures.set(i, one);
    }
    return pictures.get(i);
  };
  function paintPicture(i, side, style, taken) {
    const x = toX(i), y = toY(i), cell = `${Math.round(x / side / .9)},${Math.round(y / side / .9)}`;
    if (taken.has(cell)) return false;
    const one = image(i);
    if (!one.complete || !one.naturalWidth) return false;
    taken.add(cell);
    const by = side / Math.max(one.naturalWidth, one.naturalHeight), w = one.naturalWidth * by, h = one.naturalHeight * by;
    context.fillStyle = style("--card");
    context.fillRect(x - w / 2 - 2, y - h / 2 - 2, w + 4, h + 4);
    context.drawImage(one, x - w / 2, y - h / 2, w, h);
    context.lineWidth = 2; context.strokeStyle = style("--image");
    context.strokeRect(x - w / 2 - 1, y - h / 2 - 1, w + 2, h + 2);
    return true;
  }
  function dot(i, size, style) {
    const { modality } = points[i], x = toX(i), y = toY(i);
    context.beginPath();
    if (modality === "text") context.arc(x, y, size, 0, 7);
    else if (modality === "image") context.rect(x - size * .9, y - size * .9, size * 1.8, size * 1.8);
    else { context.moveTo(x, y - size * 1.1); context.lineTo(x + size * 1.1, y + size * .85); context.lineTo(x - size * 1.1, y + size * .85); context.closePath(); }
    context.fillStyle = style(`--${modality}`); context.fill();
    context.lineWidth = 1.5; context.strokeStyle = style("--card"); context.stroke();
  }
  function draw() {
    waiting = 0;
    if (!width) return;
    const computed = getComputedStyle(document.documentElement), style = name => computed.getPropertyValue(name).trim();
    const pack = name => { const [, r, g, b] = /^#(..)(..)(..)$/.exec(style(name)); return parseInt(b + g + r, 16); };
    paintPoints({ image: pack("--image"), audio: pack("--audio"), text: pack("--text"), faint: dark.matches ? 70 : 48 });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const inView = i => { const x = toX(i), y = toY(i); return x > -40 && y > -40 && x < width + 40 && y < height + 40; };
    const taken = new Set(), side = Math.min(76, 46 * Math.max(1, (scale / fitted) ** .35));
    if (lit) for (const [rank, i] of [...lit.entries()].reverse()) if (inView(i)) dot(i, Math.max(rank < 10 ? 6 : 4, radius() * (rank < 10 ? 1.7 : 1.2)), style);
    const near = lit ? lit.slice(0, PICTURES) : scale > fitted * 1.8 || n <= 4 * PICTURES ? points.keys() : [];
    let drawn = 0;
    for (const i of near) {
      if (drawn > PICTURES) break;
      if (points[i].modality === "image" && inView(i) && (lit || pictures.size < 600 || pictures.has(i)) && paintPicture(i, side, style, taken)) drawn++;
    }
    if (marked >= 0) {
      context.beginPath();
      context.arc(toX(marked), toY(marked), Math.max(radius() + 5, taken.size && pictures.get(marked)?.complete ? side * .62 : 0), 0, 7);
      context.lineWidth = 3; context.strokeStyle = style("--accent"); context.stroke();
    }
  }
  function redraw() { waiting ||= requestAnimationFrame(draw); }

  // ---- hands ----
  const pointers = new Map();
  let isDragged = false;
  const spot = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  const over = (x, y) => {
    const i = nearest(x, y, REACH);
    if (i !== marked || i < 0) { marked = i; hover(points[i], i < 0 ? 0 : toX(i), i < 0 ? 0 : toY(i)); redraw(); }
    canvas.style.cursor = i < 0 ? "" : "pointer";
  };
  const listen = {
    pointerdown: event => { canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, spot(event)); if (pointers.size === 1) isDragged = false; },
    pointermove: event => {
      const [x, y] = spot(event), old = pointers.get(event.pointerId);
      if (!old) return over(x, y);
      if (!isDragged && Math.hypot(x - old[0], y - old[1]) < DRAG) return;
      isDragged = true;
      pointers.set(event.pointerId, [x, y]);
      if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1], before = Math.hypot(old[0] - other[0], old[1] - other[1]);
        if (before) zoom(Math.hypot(x - other[0], y - other[1]) / before, (x + other[0]) / 2, (y + other[1]) / 2);
        left += (x - old[0]) / 2; top += (y - old[1]) / 2;
      } else { left += x - old[0]; top += y - old[1]; }
      hover(null);
      redraw();
    },
    pointerup: event => {
      if (!pointers.delete(event.pointerId) || isDragged) return;
      const i = nearest(...spot(event), REACH);
      if (i >= 0) open(points[i]);
    },
    pointercancel: event => pointers.delete(event.pointerId),
    pointerleave: () => { if (!pointers.size) { marked = -1; hover(null); redraw(); } },
    keydown: event => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const shift = (dx, dy) => { left += dx; top += dy; redraw(); };
      const act = {
        ArrowLeft: () => shift(60, 0), ArrowRight: () => shift(-60, 0), ArrowUp: () => shift(0, 60), ArrowDown: () => shift(0, -60),
        "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: fit,
        Enter: () => { const i = nearest(width / 2, height / 2, width + height); if (i >= 0) open(points[i]); },
      }[event.key];
      if (act) { event.preventDefault(); act(); }
    },
  };
  const wheel = event => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? height : 1;
    zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY * lines)) * (event.ctrlKey ? .01 : .0018)), ...spot(event));
  };
  for (const [name, hear] of Object.entries(listen)) canvas.addEventListener(name, hear);
  canvas.addEventListener("wheel", wheel, { passive: false });
  dark.addEventListener("change", redraw);
  resize();
  return {
    fit, zoom, centre, resize,
    mark(key) { const i = indexOf.get(key) ?? -1; if (i !== marked) { marked = i; redraw(); } },
    light(keys) {
      lit = keys && keys.map(key => indexOf.get(key)).filter(i => i !== undefined);
      isLit = lit && new Uint8Array(n);
      for (const i of lit || []) isLit[i] = 1;
      redraw();
    },
    end() {
      cancelAnimationFrame(waiting);
      cancelAnimationFrame(moving);
      dark.removeEventListener("change", redraw);
      for (const [name, hear] of Object.entries(listen)) canvas.removeEventListener(name, hear);
      canvas.removeEventListener("wheel", wheel);
    },
  };
}
