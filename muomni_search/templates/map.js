"use strict";
// A scatter of up to some 100,000 points: WebGL where there is any, plain canvas elsewhere. Keys,
// texts and metadata come from anywhere: they reach the page as text nodes alone.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const main = document.querySelector("main"), canvas = byId("points"), over = byId("marks");
const card = byId("card"), search = byId("search");
const bytes = text => Uint8Array.from(atob(text), one => one.charCodeAt(0));
const places = new Float32Array(bytes(data.places).buffer);
const group = bytes(data.group), rgb = bytes(data.rgb);
const n = group.length;
const HIDDEN = 0, PLAIN = 1, DIM = 2, LIT = 3;
const SHAPES = ["circle", "diamond", "triangle", "square", "ring"];
const LISTED = 200, REACH = 14, FLING = 4;

// ---- the view: one unit of the map is `scale` pixels, its origin lies at (left, top) ------------

let width = 1, height = 1, ratio = 1, scale = 1, fitted = 1, left = 0, top = 0;
const toX = x => left + x * scale, toY = y => top - y * scale;
const radius = () => {
  const still = Math.min(7, Math.max(1.7, 26 / n ** .25));
  return Math.min(11, still * Math.max(.8, Math.min(2.6, (scale / fitted) ** .3)));
};

function fit() {
  // Beside the panel where there is room for both.
  const panel = byId("panel").getBoundingClientRect();
  const isNarrow = innerWidth <= 704;
  const from = isNarrow ? 0 : panel.right, to = isNarrow ? panel.top : height;
  let [low, high, under, upper] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < n; i++) {
    low = Math.min(low, places[2 * i]); high = Math.max(high, places[2 * i]);
    under = Math.min(under, places[2 * i + 1]); upper = Math.max(upper, places[2 * i + 1]);
  }
  if (data.query) {
    low = Math.min(low, data.query.place[0]); high = Math.max(high, data.query.place[0]);
    under = Math.min(under, data.query.place[1]); upper = Math.max(upper, data.query.place[1]);
  }
  const wide = Math.max(high - low, .02), tall = Math.max(upper - under, .02);
  scale = fitted = Math.max(1, Math.min((width - from - 90) / wide, (to - 120) / tall));
  left = from + (width - from) / 2 - scale * (low + high) / 2;
  top = 20 + to / 2 + scale * (under + upper) / 2;
  redraw();
}

function zoom(factor, x = width / 2, y = height / 2) {
  const to = Math.min(fitted * 2000, Math.max(fitted / 4, scale * factor));
  left = x - (x - left) * to / scale;
  top = y - (y - top) * to / scale;
  scale = to;
  redraw();
}

function move(dx, dy) { left += dx; top += dy; redraw(); }

function resize() {
  const isFirst = width === 1;
  const [oldWidth, oldHeight] = [width, height];
  width = main.clientWidth; height = main.clientHeight; ratio = devicePixelRatio || 1;
  for (const one of [canvas, over]) { one.width = width * ratio; one.height = height * ratio; }
  if (isFirst) fit(); else move((width - oldWidth) / 2, (height - oldHeight) / 2);
}

// ---- which points are shown, and how ----------------------------------------------------------------

const looks = new Uint8Array(n).fill(PLAIN);
const isOff = data.groups.map(() => false);
let found = null, inside = null;  // Uint8Array of what the search and the lasso chose, or null
let hover = -1, pinned = -1, showsPictures = false;

function look() {
  for (let i = 0; i < n; i++) {
    looks[i] = isOff[group[i]] ? HIDDEN : !found && !inside ? PLAIN
      : (!found || found[i]) && (!inside || inside[i]) ? LIT : DIM;
  }
  painter.look(looks);
  listChosen();
  redraw();
}

// ---- picking: a grid of the points, as the points of each cell one after another -------------------

const SIDE = Math.max(1, Math.ceil(Math.sqrt(n / 2)));
const cellOf = at => Math.min(SIDE - 1, Math.max(0, Math.floor((at + 1) / 2 * SIDE)));
const starts = new Uint32Array(SIDE * SIDE + 1), members = new Uint32Array(n);
{
  const cells = new Uint32Array(n);
  for (let i = 0; i < n; i++) {
    cells[i] = cellOf(places[2 * i + 1]) * SIDE + cellOf(places[2 * i]);
    starts[cells[i] + 1]++;
  }
  for (let cell = 0; cell < SIDE * SIDE; cell++) starts[cell + 1] += starts[cell];
  const next = starts.slice();
  for (let i = 0; i < n; i++) members[next[cells[i]]++] = i;
}

function nearest(x, y, reach) {
  const px = (x - left) / scale, py = (top - y) / scale, far = reach / scale;
  let best = -1, least = far * far;
  for (let row = cellOf(py - far); row <= cellOf(py + far); row++) {
    const cell = row * SIDE, to = starts[cell + cellOf(px + far) + 1];
    for (let at = starts[cell + cellOf(px - far)]; at < to; at++) {
      const i = members[at];
      if (looks[i] === HIDDEN) continue;
      const dx = places[2 * i] - px, dy = places[2 * i + 1] - py;
      // Of a lit and a dim one under the pointer the lit one is meant.
      const distance = (dx * dx + dy * dy) * (looks[i] === DIM ? 4 : 1);
      if (distance < least) { least = distance; best = i; }
    }
  }
  return best;
}

// ---- painting the points --------------------------------------------------------------------------

const VERTEX = `#version 300 es
in vec2 place; in vec3 colour; in float shape; in float look;
uniform vec2 scale, shift; uniform float size; uniform float pass;
out vec3 ink; flat out float form; flat out float dim; flat out float wide;
void main() {
  bool lit = look > 2.5;
  bool skip = look < .5 || (pass > .5) != lit;
  gl_Position = skip ? vec4(2., 2., 2., 1.) : vec4(place * scale + shift, 0., 1.);
  wide = lit ? size * 1.35 : size;
  gl_PointSize = wide;
  ink = colour; form = shape; dim = look > 1.5 && !lit ? .13 : .88;
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 ink; flat in float form; flat in float dim; flat in float wide;
uniform vec3 rim;
out vec4 shown;
void main() {
  vec2 p = gl_PointCoord * 2. - 1.;
  float d = length(p) / .86;
  if (form > .5 && form < 1.5) d = (abs(p.x) + abs(p.y)) / .98;
  else if (form > 1.5 && form < 2.5) d = max(.866 * abs(p.x) - .5 * (p.y - .12), p.y - .12) / .5;
  else if (form > 2.5 && form < 3.5) d = max(abs(p.x), abs(p.y)) / .74;
  float soft = min(.9, 3. / wide);
  float alpha = 1. - smoothstep(1. - soft, 1., d);
  if (form > 3.5) alpha *= smoothstep(.45, .45 + soft, d);
  float edge = wide > 8. ? smoothstep(1. - 2.2 * soft, 1. - soft, d) * .5 : 0.;
  alpha *= dim;
  shown = vec4(mix(ink, rim, edge) * alpha, alpha);
}`;

function webgl() {
  const trial = document.createElement("canvas").getContext("webgl2");
  if (!trial) return null;
  const named = trial.getExtension("WEBGL_debug_renderer_info");
  const renderer = trial.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : trial.RENDERER);
  trial.getExtension("WEBGL_lose_context")?.loseContext();
  // Computed on the processor it is several times slower than the plain canvas.
  if (/swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer)) return null;
  const gl = canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true });
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  const buffers = {};
  const attribute = (name, values, parts, kind, isUnit) => {
    const at = gl.getAttribLocation(program, name);
    buffers[name] = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, parts, kind, isUnit, 0, 0);
  };
  attribute("place", places, 2, gl.FLOAT, false);
  attribute("colour", rgb, 3, gl.UNSIGNED_BYTE, true);
  const shapes = data.groups.map(one => SHAPES.indexOf(one.shape));
  attribute("shape", Uint8Array.from(group, one => shapes[one]), 1, gl.UNSIGNED_BYTE, false);
  attribute("look", looks, 1, gl.UNSIGNED_BYTE, false);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, order, gl.STATIC_DRAW);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const uniform = name => gl.getUniformLocation(program, name);
  const at = { scale: uniform("scale"), shift: uniform("shift"), size: uniform("size"),
               pass: uniform("pass"), rim: uniform("rim") };
  return {
    look(values) {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers.look);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, values);
    },
    paint() {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform2f(at.scale, 2 * scale / width, 2 * scale / height);
      gl.uniform2f(at.shift, 2 * left / width - 1, 1 - 2 * top / height);
      gl.uniform1f(at.size, 2.3 * radius() * ratio);
      gl.uniform3fv(at.rim, isDark.matches ? [.05, .06, .08] : [1, 1, 1]);
      for (const pass of found || inside ? [0, 1] : [0]) {
        gl.uniform1f(at.pass, pass);
        gl.drawElements(gl.POINTS, n, gl.UNSIGNED_INT, 0);
      }
    },
  };
}

// Squares written straight into pixels: drawing 50,000 shapes one by one takes a canvas a second.
function plain() {
  const context = canvas.getContext("2d");
  let image = null, pixels = null;
  return {
    look() {},
    paint() {
      const [w, h] = [canvas.width, canvas.height];
      if (!image || image.width !== w || image.height !== h) {
        image = context.createImageData(w, h);
        pixels = new Uint32Array(image.data.buffer);
      }
      pixels.fill(0);
      const side = Math.max(2, Math.round(1.7 * radius() * ratio)), half = side >> 1;
      for (const pass of found || inside ? [DIM, LIT] : [PLAIN]) {
        const alpha = (pass === DIM ? 40 : 235) << 24;
        for (const i of order) {
          if (looks[i] !== pass) continue;
          const x = Math.round(toX(places[2 * i]) * ratio) - half, y = Math.round(toY(places[2 * i + 1]) * ratio) - half;
          if (x < 0 || y < 0 || x + side > w || y + side > h) continue;
          const ink = alpha | rgb[3 * i + 2] << 16 | rgb[3 * i + 1] << 8 | rgb[3 * i];
          for (let row = y; row < y + side; row++) pixels.fill(ink, row * w + x, row * w + x + side);
        }
      }
      context.putImageData(image, 0, 0);
    },
  };
}

// In an order of chance, so that no group lies above another one.
const order = new Uint32Array(n).map((_, i) => i);
for (let i = n - 1, state = 1; i > 0; i--) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  const other = Math.floor(state / 2 ** 32 * (i + 1));
  [order[i], order[other]] = [order[other], order[i]];
}
const isDark = matchMedia("(prefers-color-scheme: dark)");
isDark.addEventListener("change", () => redraw());
const painter = webgl() || plain();

// ---- marks above the points: pictures, the query, the lasso, rings -------------------------------------

const marks = over.getContext("2d");
const loaded = new Map();
let lasso = null;  // screen coordinates x, y, x, y, … while it is drawn

function picture(i) {
  if (!loaded.has(i)) {
    const image = new Image();
    image.onload = () => redraw();
    image.src = data.pictures[i][0];
    loaded.set(i, image);
  }
  return loaded.get(i);
}

function paintMarks() {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  marks.setTransform(ratio, 0, 0, ratio, 0, 0);
  marks.clearRect(0, 0, width, height);
  if (showsPictures) paintPictures(colour);
  if (inside && inside.outline) trace(inside.outline.map((at, k) => k % 2 ? toY(at) : toX(at)), colour);
  if (lasso) trace(lasso, colour);
  for (const i of new Set([hover, pinned])) if (i >= 0) {
    marks.beginPath();
    marks.arc(toX(places[2 * i]), toY(places[2 * i + 1]), radius() + 4, 0, 7);
    marks.lineWidth = 2.5;
    marks.strokeStyle = colour(i === pinned ? "--accent" : "--ink");
    marks.stroke();
  }
  if (data.query) paintQuery(colour);
}

function paintPictures(colour) {
  const side = Math.min(84, 34 * Math.max(1, (scale / fitted) ** .35)), taken = new Set();
  // What was found comes first where they would overlap.
  const first = pictured.filter(key => looks[key] === LIT);
  for (const key of first.length ? [...first, ...pictured.filter(key => looks[key] !== LIT)] : pictured) {
    const x = toX(places[2 * key]), y = toY(places[2 * key + 1]);
    if (looks[key] === HIDDEN || x < -side || y < -side || x > width + side || y > height + side) continue;
    const cx = Math.floor(x / side / .55), cy = Math.floor(y / side / .55);
    if (taken.size > 400 || [-1, 0, 1].some(a => [-1, 0, 1].some(b => taken.has(`${cx + a},${cy + b}`)))) continue;
    const image = picture(key);
    if (!image.complete || !image.naturalWidth) continue;
    taken.add(`${cx},${cy}`);
    const by = side / Math.max(image.naturalWidth, image.naturalHeight);
    const w = image.naturalWidth * by, h = image.naturalHeight * by;
    marks.globalAlpha = looks[key] === DIM ? .15 : 1;
    marks.fillStyle = colour("--light");
    marks.fillRect(x - w / 2, y - h / 2, w, h);
    marks.drawImage(image, x - w / 2, y - h / 2, w, h);
    marks.lineWidth = 2;
    marks.strokeStyle = `rgb(${rgb[3 * key]},${rgb[3 * key + 1]},${rgb[3 * key + 2]})`;
    marks.strokeRect(x - w / 2, y - h / 2, w, h);
    marks.globalAlpha = 1;
  }
}

function trace(line, colour) {
  marks.beginPath();
  for (let k = 0; k < line.length; k += 2) marks.lineTo(line[k], line[k + 1]);
  marks.closePath();
  marks.globalAlpha = .1; marks.fillStyle = colour("--accent"); marks.fill();
  marks.globalAlpha = 1; marks.lineWidth = 1.5; marks.strokeStyle = colour("--accent"); marks.stroke();
}

function paintQuery(colour) {
  const x = toX(data.query.place[0]), y = toY(data.query.place[1]);
  marks.beginPath();
  for (let k = 0; k < 10; k++) {
    const turn = Math.PI * k / 5 - Math.PI / 2, far = k % 2 ? 6 : 14;
    marks.lineTo(x + far * Math.cos(turn), y + far * Math.sin(turn));
  }
  marks.closePath();
  marks.lineJoin = "round"; marks.lineWidth = 5; marks.strokeStyle = colour("--card"); marks.stroke();
  marks.fillStyle = colour("--ink"); marks.fill();
  marks.font = `600 13px ${getComputedStyle(document.body).fontFamily}`;
  marks.textAlign = x > width - 220 ? "right" : "left"; marks.textBaseline = "middle";
  const at = x > width - 220 ? x - 20 : x + 20;
  marks.lineWidth = 4; marks.strokeText(data.query.title, at, y);
  marks.fillText(data.query.title, at, y);
}

// ---- frames -----------------------------------------------------------------------------------------

let isWaiting = false;
function redraw() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    painter.paint();
    paintMarks();
    placeCard();
  });
}

// ---- the card ----------------------------------------------------------------------------------------

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawing(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function link(source) {
  const shown = element("p", "source");
  try {
    if (!source.startsWith("/")) throw new URIError();
    const made = element("a", "", source);
    made.href = "file://" + source.split("/").map(encodeURIComponent).join("/");
    shown.append(made);
  } catch {
    shown.textContent = source;  // no path of a file here
  }
  return shown;
}

function media(i) {
  if (data.pictures[i]) {
    const [uri, w, h, isCutout] = data.pictures[i];
    const image = new Image(w, h);
    image.src = uri;
    image.alt = "";
    const well = element("div", isCutout ? "well cutout" : "well");
    well.append(image);
    return well;
  }
  if (data.sounds[i]) {
    const [uri, wave, told] = data.sounds[i];
    const well = element("div", "well"), player = element("audio");
    const svg = drawing("svg", { viewBox: `0 -0.3 ${data.bars} 2.6`, preserveAspectRatio: "none" });
    svg.append(drawing("path", { d: wave }));
    player.controls = true;
    player.preload = "none";
    player.src = uri;
    player.setAttribute("aria-label", `Sound ${data.keys[i]}`);
    well.append(svg, player, element("p", "kind", told));
    return well;
  }
  return null;
}

function fillCard(i) {
  const parts = [];
  const title = element("h2"), kind = data.modalities[i];
  title.append(element("bdi", "", data.keys[i]));
  parts.push(title);
  const field = data.groups[group[i]].name;
  const told = [kind, data.field !== "modality" && !data.scale ? field : "", data.notes[i]];
  parts.push(element("p", "kind", told.filter(Boolean).join(" · ")));
  const shown = media(i);
  if (shown) parts.push(shown);
  if (data.texts[i]) { const text = element("p", "text", data.texts[i]); text.dir = "auto"; parts.push(text); }
  if (data.facts[i].length) {
    const facts = element("dl");
    for (const [name, value] of data.facts[i]) {
      const row = element("div"), dt = element("dt"), dd = element("dd");
      dt.append(element("bdi", "", name)); dd.append(element("bdi", "", value));
      row.append(dt, dd); facts.append(row);
    }
    parts.push(facts);
  }
  if (data.sources[i]) parts.push(link(data.sources[i]));
  const close = element("button", "close", "×");
  close.setAttribute("aria-label", "Close");
  close.onclick = () => { pin(-1); canvas.focus(); };
  card.replaceChildren(...parts, close);
}

let carded = -1;
function showCard() {
  const i = pinned >= 0 ? pinned : hover;
  card.classList.toggle("pinned", pinned >= 0);
  if (i !== carded) { carded = i; if (i >= 0) { fillCard(i); card.scrollTop = 0; } }
  card.hidden = i < 0;
  redraw();
}

function placeCard() {
  if (carded < 0) return;
  const x = toX(places[2 * carded]), y = toY(places[2 * carded + 1]);
  const w = card.offsetWidth, h = card.offsetHeight, gap = radius() + 12;
  const at = x + gap + w < width - 8 ? x + gap : x - gap - w;
  card.style.transform = `translate(${Math.round(Math.min(width - w - 8, Math.max(8, at)))}px, ${
    Math.round(Math.min(height - h - 8, Math.max(8, y - h / 3)))}px)`;
}

function pin(i) { pinned = i; hover = -1; showCard(); }

function goTo(i) {
  const x = toX(places[2 * i]), y = toY(places[2 * i + 1]);
  const from = innerWidth > 704 ? 330 : 40;
  if (x < from || x > width - 40 || y < 60 || y > height - 40) move((width + from) / 2 - x, height / 2 - y);
  pin(i);
}

// ---- pointers: drag, pinch, wheel, lasso, hover, click ------------------------------------------------

const pointers = new Map();
let isDragged = false, isArmed = false;
const at = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };

canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, at(event));
  isDragged = false;
  if (pointers.size === 1 && (event.shiftKey || isArmed)) lasso = at(event);
  else lasso = null;
});
canvas.addEventListener("pointermove", event => {
  const [x, y] = at(event), old = pointers.get(event.pointerId);
  if (!old) {
    const under = nearest(x, y, REACH);
    main.classList.toggle("pointing", under >= 0 && !isArmed);
    if (under !== hover) { hover = under; showCard(); }
    return;
  }
  if (!isDragged && Math.hypot(x - old[0], y - old[1]) < FLING) return;
  isDragged = true;
  pointers.set(event.pointerId, [x, y]);
  if (lasso) { lasso.push(x, y); redraw(); return; }
  main.classList.add("moving");
  if (pointers.size === 2) {
    const other = [...pointers.entries()].find(([id]) => id !== event.pointerId)[1];
    const before = Math.hypot(old[0] - other[0], old[1] - other[1]);
    const after = Math.hypot(x - other[0], y - other[1]);
    move((x - old[0]) / 2, (y - old[1]) / 2);
    if (before > 0) zoom(after / before, (x + other[0]) / 2, (y + other[1]) / 2);
  } else move(x - old[0], y - old[1]);
});
const release = event => {
  if (!pointers.delete(event.pointerId)) return;
  main.classList.remove("moving");
  if (lasso) {
    if (isDragged && lasso.length > 6) choose(lasso);
    lasso = null;
    arm(false);
  } else if (!isDragged && event.type === "pointerup") {
    const [x, y] = at(event);
    pin(nearest(x, y, REACH));
  }
  redraw();
};
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => { if (!pointers.size && hover >= 0) { hover = -1; showCard(); } });
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? height : 1;
  zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY * lines)) * (event.ctrlKey ? .01 : .0018)), ...at(event));
}, { passive: false });

canvas.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = 60;
  const act = {
    ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0),
    ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
    "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: fit,
    Enter: () => pin(nearest(width / 2, height / 2, Math.hypot(width, height))),
    "/": () => search.focus(),
  }[event.key];
  if (act) { event.preventDefault(); act(); }
});
addEventListener("keydown", event => {
  if (event.key !== "Escape") return;
  if (pinned >= 0) pin(-1);
  else if (isArmed || lasso) { lasso = null; arm(false); redraw(); }
  else clear();
});

function arm(yes) {
  isArmed = yes;
  byId("lasso").setAttribute("aria-pressed", yes);
  main.classList.toggle("lassoing", yes);
}

// ---- choosing: search box, lasso, legend ---------------------------------------------------------------

let texts = null;
function find() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) found = null;
  else {
    texts ??= data.keys.map((key, i) => [key, data.texts[i] || "", data.modalities[i], ...data.facts[i].flat()].join("\n").toLowerCase());
    found = Uint8Array.from(texts, text => words.every(word => text.includes(word)));
  }
  look();
}

function choose(line) {
  const outline = Array.from(line, (at, k) => k % 2 ? (top - at) / scale : (at - left) / scale);
  inside = new Uint8Array(n);
  for (let i = 0; i < n; i++) {
    const x = places[2 * i], y = places[2 * i + 1];
    let isIn = false;
    for (let a = 0, b = outline.length - 2; a < outline.length; b = a, a += 2) {
      const [ax, ay, bx, by] = [outline[a], outline[a + 1], outline[b], outline[b + 1]];
      if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) isIn = !isIn;
    }
    inside[i] = isIn;
  }
  inside.outline = outline;
  look();
}

function clear() { search.value = ""; found = inside = null; look(); }

let chosen = [];
function listChosen() {
  const isChoosing = Boolean(found || inside);
  byId("chosen").hidden = !isChoosing;
  if (!isChoosing) return;
  const lit = [];
  for (let i = 0; i < n; i++) if (looks[i] === LIT) lit.push(i);
  chosen = [...new Set(lit.map(i => data.keys[i]))];
  const many = lit.length.toLocaleString("en");
  byId("count").textContent = `${many} ${lit.length === 1 ? "point" : "points"}${lit.length > LISTED ? `, the first ${LISTED} here` : ""}`;
  byId("list").replaceChildren(...lit.slice(0, LISTED).map(i => {
    const row = element("li"), button = element("button");
    button.append(element("bdi", "", data.keys[i]));
    button.onclick = () => goTo(i);
    row.append(button);
    return row;
  }));
  for (const id of ["copy", "save"]) byId(id).disabled = !chosen.length;
}

search.addEventListener("input", find);
search.addEventListener("keydown", event => {
  if (event.key === "Enter") byId("list").querySelector("button")?.click();
});
byId("clear").onclick = clear;
byId("lasso").onclick = () => arm(!isArmed);
byId("in").onclick = () => zoom(1.5);
byId("out").onclick = () => zoom(1 / 1.5);
byId("fit").onclick = fit;
byId("save").onclick = () => {
  const anchor = element("a");
  anchor.download = "keys.txt";
  anchor.href = URL.createObjectURL(new Blob([chosen.join("\n") + "\n"], { type: "text/plain" }));
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
};
byId("copy").onclick = async event => {
  const button = event.currentTarget, text = chosen.join("\n") + "\n";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page from a file may have no clipboard of its own.
    const area = element("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy keys"; }, 1500);
};

const pictured = Object.keys(data.pictures).map(Number);
byId("pictures").hidden = !pictured.length;
byId("pictures").onclick = event => {
  showsPictures = !showsPictures;
  event.currentTarget.setAttribute("aria-pressed", showsPictures);
  redraw();
};

// ---- the legend ---------------------------------------------------------------------------------------

const PATHS = {
  circle: "M7 1.5a5.5 5.5 0 1 0 .01 0z", ring: "M7 2.5a4.5 4.5 0 1 0 .01 0z",
  diamond: "M7 .8 13.2 7 7 13.2 .8 7z", triangle: "M7 1 13.4 12.2H.6z", square: "M2 2h10v10H2z",
};
{
  const legend = byId("legend");
  legend.append(element("h2", "", data.field));
  if (data.scale) {
    const box = element("div", "scale"), svg = drawing("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    const blend = drawing("linearGradient", { id: "blend" });
    data.scale.stops.forEach((stop, k) => blend.append(drawing("stop", { offset: k / (data.scale.stops.length - 1), "stop-color": stop })));
    const ends = element("p");
    ends.append(element("span", "", data.scale.low), element("span", "", data.scale.high));
    svg.append(blend, drawing("rect", { width: 100, height: 1, fill: "url(#blend)" }));
    box.append(svg, ends);
    legend.append(box);
  }
  data.groups.forEach((one, number) => {
    const button = element("button", "group"), svg = drawing("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" });
    const isRing = one.shape === "ring";
    svg.append(drawing("path", { d: PATHS[one.shape], fill: isRing ? "none" : one.colour, stroke: one.colour, "stroke-width": isRing ? 2.5 : 0 }));
    button.append(svg, element("bdi", "", one.name), element("span", "", one.count.toLocaleString("en")));
    button.title = one.name;
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => {
      isOff[number] = !isOff[number];
      button.setAttribute("aria-pressed", String(!isOff[number]));
      if (pinned >= 0 && isOff[group[pinned]]) pin(-1);
      look();
    };
    legend.append(button);
  });
}

addEventListener("resize", resize);
resize();
look();
})();
