// Sounds: one that plays at a time, its envelope to play from, and recordings as WAV files.
import * as api from "./api.js";
import { Icon } from "./icons.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { duration } from "./words.js";

// ---- playing ----------------------------------------------------------------------------------------

const audio = new Audio();
audio.preload = "none";
const hearers = new Set();
let source = "", until = Infinity, asked = null;  // asked: a place to start from, before the file is there

function tell() { for (const hear of hearers) hear(); }

function frame() {
  if (audio.currentTime >= until) { audio.pause(); until = Infinity; }
  tell();
  if (!audio.paused) requestAnimationFrame(frame);
}
audio.addEventListener("play", () => requestAnimationFrame(frame));
for (const name of ["pause", "ended", "error", "loadedmetadata"]) audio.addEventListener(name, tell);
audio.addEventListener("loadedmetadata", () => {
  if (asked !== null) audio.currentTime = asked;
  asked = null;
});

const isPlaying = url => source === url && !audio.paused;
export function stop() { audio.pause(); }

export function play(url, from = null, to = Infinity) {
  if (source !== url) { source = url; audio.src = url; asked = from; }
  else if (from !== null) audio.currentTime = from;
  until = to;
  audio.play().catch(tell);
}

export function toggle(url, from, to) {
  if (isPlaying(url)) stop();
  else play(url, source === url && audio.currentTime > 0 && !audio.ended && audio.currentTime < to ? null : from, to);
}

/** Play what a hit points at, or stop. */
export function toggleHit(collection, hit) {
  if (hit.modality !== "audio" || !hit.has_original) return;
  const url = api.original(collection, hit.key), span = hit.span?.unit === "ms" ? hit.span : null;
  toggle(url, span ? span.start / 1000 : 0, span ? span.end / 1000 : Infinity);
}

/** Where a sound is, in seconds, while it is the one that plays; drawn anew with every frame. */
function useHead(url) {
  const [, again] = useState(0);
  useEffect(() => {
    const hear = () => source === url ? again(count => count + 1) : again(count => (count % 2 ? count + 1 : count));
    hearers.add(hear);
    return () => hearers.delete(hear);
  }, [url]);
  return source === url ? { at: asked ?? audio.currentTime, isOn: !audio.paused, error: audio.error } : { at: 0, isOn: false };
}

/** A play button and the envelope, with the matching span marked; a click plays from there. */
export function Player({ collection, hit, curve, isLarge }) {
  const url = api.original(collection, hit.key);
  const [wave, setWave] = useState(null), [error, setError] = useState("");
  const { at, isOn, error: broken } = useHead(url);
  useEffect(() => {
    let isHere = true;
    setWave(null);
    api.waveform(collection, hit.key).then(told => isHere && setWave(told), told => isHere && setError(told.message));
    return () => { isHere = false; };
  }, [collection, hit.key]);
  const seconds = wave?.seconds || 0;
  const span = hit.span?.unit === "ms" ? [hit.span.start / 1000, hit.span.end / 1000] : null;
  const isPart = span && seconds && span[1] - span[0] < seconds * .98;
  const [from, to] = isPart ? span : [0, Infinity];
  return html`
    <div class=${`player ${isLarge ? "large" : ""}`}>
      <button type="button" class="play" tabindex=${isLarge ? 0 : -1} onClick=${() => toggle(url, from, to)}
        aria-label=${isOn ? `Pause ${hit.title}` : `Play ${hit.title}${isPart ? `, the part from ${duration(from)} to ${duration(to)}` : ""}`}>
        <${Icon} name=${isOn ? "pause" : "play"} /></button>
      <div class="wave">
        ${wave ? html`<${Wave} wave=${wave} span=${isPart ? span : null} at=${at} curve=${curve} />` : html`<div class="flat ${error ? "" : "loading"}"></div>`}
        ${wave && html`<input type="range" class="seek" min="0" max=${seconds} step="0.01" value=${at} tabindex=${isLarge ? 0 : -1}
          aria-label=${`Place in ${hit.title}`} aria-valuetext=${`${duration(at)} of ${duration(seconds)}`}
          onInput=${event => play(url, Number(event.target.value))} />`}
      </div>
      <p class="times">
        ${error || broken ? html`<span>${broken ? "This sound cannot be played here." : error}</span>`
          : html`<span>${at ? duration(at) : ""}</span>${isPart && html`<span class="match">match ${duration(from)}–${duration(to)}</span>`}<span>${wave ? duration(seconds) : ""}</span>`}
      </p>
    </div>`;
}

function Wave({ wave: { bars, seconds }, span, at, curve }) {
  const x = time => time / seconds * bars.length;
  const line = bars.map((bar, k) => { const tall = Math.max(.03, bar) * 48; return `M${k + .5} ${50 - tall}V${50 + tall}`; }).join("");
  const played = Math.min(bars.length, Math.floor(x(at)));
  return html`
    <svg viewBox=${`0 0 ${bars.length} 100`} preserveAspectRatio="none" aria-hidden="true">
      ${span && html`<rect class="span" x=${x(span[0])} y="0" width=${x(span[1]) - x(span[0])} height="100" />`}
      <path class="bars" d=${line} />
      ${played > 0 && html`<path class="played" d=${bars.slice(0, played).map((bar, k) => { const tall = Math.max(.03, bar) * 48; return `M${k + .5} ${50 - tall}V${50 + tall}`; }).join("")} />`}
      ${curve && html`<path class="curve" d=${curveOf(curve, x)} />`}
      ${at > 0 && html`<path class="head" d=${`M${x(at)} 0V100`} />`}
    </svg>`;
}

// Each window's cosine stands over its middle; the scale is from the least to the greatest.
function curveOf({ windows, cosines }, x) {
  const low = Math.min(...cosines), high = Math.max(...cosines), tall = cosine => 94 - 88 * (high > low ? (cosine - low) / (high - low) : .5);
  const points = windows.map(([from, to], k) => [x((from + to) / 2000), tall(cosines[k])]);
  const first = [x(windows[0][0] / 1000), points[0][1]], last = [x(windows.at(-1)[1] / 1000), points.at(-1)[1]];
  return `M${[first, ...points, last].map(point => point.map(one => one.toFixed(2)).join(" ")).join("L")}`;
}

// ---- recording --------------------------------------------------------------------------------------

const RATE = 32_000, LONGEST = 60;

/** Return a WAV file (16 bits, one channel) of any sound that this browser can decode. */
export async function toWav(blob, name) {
  const context = new AudioContext();
  let decoded;
  try { decoded = await context.decodeAudioData(await blob.arrayBuffer()); } finally { context.close(); }
  const frames = Math.max(1, Math.ceil(decoded.duration * RATE));
  const offline = new OfflineAudioContext(1, frames, RATE), player = offline.createBufferSource();
  player.buffer = decoded;
  player.connect(offline.destination);
  player.start();
  const samples = (await offline.startRendering()).getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, text) => [...text].forEach((letter, k) => view.setUint8(at + k, letter.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  word(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, k) => view.setInt16(44 + 2 * k, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return new File([view], name, { type: "audio/wav" });
}

/** Records at once when it is shown; gives a WAV file, or nothing when it is closed. */
export function Recorder({ done, close }) {
  const dialog = useRef(), meter = useRef(), recorder = useRef(), isWanted = useRef(false);
  const [seconds, setSeconds] = useState(0), [wrong, setWrong] = useState(""), [isOn, setOn] = useState(false);
  useEffect(() => {
    stop();
    dialog.current.showModal();
    let stream, context, timer, isHere = true;
    const begin = async () => {
      if (!navigator.mediaDevices) throw new Error("This browser records only on pages from https: or from this machine.");
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      if (!isHere) return end();
      const pieces = [];
      recorder.current = new MediaRecorder(stream);
      recorder.current.ondataavailable = event => pieces.push(event.data);
      recorder.current.onstop = async () => {
        end();
        if (!isWanted.current) return;
        try { done(await toWav(new Blob(pieces), "recording.wav")); } catch { setWrong("Nothing could be heard in this recording."); }
      };
      recorder.current.start();
      setOn(true);
      const began = performance.now();
      context = new AudioContext();
      const analyser = context.createAnalyser(), samples = new Float32Array(analyser.fftSize);
      context.createMediaStreamSource(stream).connect(analyser);
      timer = setInterval(() => {
        analyser.getFloatTimeDomainData(samples);
        const loud = Math.sqrt(samples.reduce((sum, one) => sum + one * one, 0) / samples.length);
        meter.current?.style.setProperty("--loud", Math.min(1, loud * 5).toFixed(3));
        const time = (performance.now() - began) / 1000;
        setSeconds(time);
        if (time > LONGEST) finish();
      }, 60);
    };
    const end = () => {
      clearInterval(timer);
      stream?.getTracks().forEach(track => track.stop());
      context?.close();
      context = null;
    };
    begin().catch(error => isHere && setWrong(error.name === "NotAllowedError" ? "This page may not use the microphone. Allow it beside the address, and try again."
      : error.name === "NotFoundError" ? "There is no microphone." : error.message));
    return () => { isHere = false; isWanted.current &&= recorder.current?.state !== "recording"; end(); };
  }, []);
  const finish = () => {
    isWanted.current = true;
    if (recorder.current?.state === "recording") recorder.current.stop();
  };
  return html`
    <dialog ref=${dialog} class="small recorder" aria-labelledby="recording" onClose=${close}>
      <h2 id="recording">${wrong ? "No recording" : "Listening…"}</h2>
      ${wrong ? html`<p class="wrong" role="alert">${wrong}</p>`
        : html`<div class="meter" ref=${meter} aria-hidden="true"><i></i><i></i><i></i></div><p class="clock" role="timer">${duration(seconds)}</p>`}
      <p class="buttons"><button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
        ${!wrong && html`<button type="button" class="main" autofocus disabled=${!isOn} onClick=${finish}>Stop and search</button>`}</p>
    </dialog>`;
}
