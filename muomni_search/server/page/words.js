// How numbers and passages are told to people; figures.py does the same for answers that are files.
import { nameOf } from "./api.js";

// Abramowitz and Stegun 7.1.26: right to 1.5e-7, more than the four digits that are shown need.
function erf(x) {
  const t = 1 / (1 + .3275911 * Math.abs(x));
  const y = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - .284496736) * t + .254829592) * t * Math.exp(-x * x);
  return Math.sign(x) * y;
}

/** Return which share of unrelated pairs has a lower score: the score follows a normal law. */
export const shareBelow = score => (1 + erf(score / Math.SQRT2)) / 2;

/** Return that share as people read it, rounded down; no more than 99.99 %, for nobody knows the tail beyond. */
export function percent(score) {
  const share = shareBelow(score) * 100;
  if (share > 99.99) return "99.99 %";
  const digits = share < 90 ? 0 : share < 99.9 ? 1 : 2;
  return `${(Math.floor(share * 10 ** digits) / 10 ** digits).toFixed(digits)} %`;
}
// Where the bar that shows a score is full.
const FULL_SCORE = 6;
export const strength = score => Math.max(0, Math.min(1, score / FULL_SCORE));
export const isWeak = score => shareBelow(score) < .5;
export const meaning = score =>
  (isWeak(score) ? "weaker than most unrelated pairs" : `stronger than ${percent(score)} of unrelated pairs`);

/** Return a number with a true minus. */
export const signed = (number, digits = 1) => number.toFixed(digits).replace("-", "−");
export const count = number => number.toLocaleString("en");
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const NAMES = { image: "Pictures", audio: "Sounds", text: "Texts", all: "All" };
export const NAME = { image: "picture", audio: "sound", text: "text" };

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

const AROUND = 20_000;

/** Cut a text at a span, which counts code points: [before, marked, after]. */
export function cut(text, { start, end }) {
  const letters = Array.from(text), from = Math.max(0, start - AROUND);
  return [
    (from ? "…" : "") + letters.slice(from, start).join(""), letters.slice(start, end).join(""),
    letters.slice(end, end + AROUND).join("") + (letters.length > end + AROUND ? "…" : ""),
  ];
}

export function value(one) {
  if (Array.isArray(one)) return one.map(value).join(", ");
  return one && typeof one === "object" ? JSON.stringify(one) : String(one);
}

/** What a part of a query is called: an item as it was seen, an upload as its file. */
export function partName({ kind, value: said }, seen) {
  if (kind === "text") return `“${said}”`;
  if (kind === "id") return seen.get(said)?.title || said.split("/").pop();
  return nameOf(said) || (kind === "image" ? "your picture" : "your sound");
}
