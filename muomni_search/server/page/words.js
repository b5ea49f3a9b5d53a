// How numbers and passages are told to people.

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

const SHOWN_BEFORE = 60;

/** Cut a text at a span, which counts code points: before, marked, after. */
export function passage(text, span, isShort = false) {
  if (!span || span.unit !== "char") return { before: text, marked: "", after: "" };
  const letters = Array.from(text);
  const whole = letters.slice(span.start, span.end).join("").trim().length >= text.trim().length;
  if (whole) return { before: text, marked: "", after: "" };
  const from = isShort ? Math.max(0, span.start - SHOWN_BEFORE) : 0;
  return {
    before: (from ? "…" : "") + letters.slice(from, span.start).join(""),
    marked: letters.slice(span.start, span.end).join(""),
    after: letters.slice(span.end, isShort ? span.end + 600 : undefined).join(""),
  };
}

export function value(one) {
  if (Array.isArray(one)) return one.map(value).join(", ");
  return one && typeof one === "object" ? JSON.stringify(one) : String(one);
}

export function partName({ kind, value: said }, titles) {
  if (kind === "text") return `“${said}”`;
  if (kind === "id") return titles?.get(said) || said.split("/").pop();
  return titles?.get(said) || (kind === "image" ? "your picture" : "your sound");
}
