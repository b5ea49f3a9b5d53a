// Line icons of 24 units, drawn in the colour of the text around them.
import { html } from "./vendor/preact.js";

const PATHS = {
  search: "M11 4a7 7 0 1 0 .01 0zM16 16l4.5 4.5",
  picture: "M4 5h16v14H4zM4 16l4.5-4.5 4 4 3-3L20 17M15.5 8.5h.01",
  mic: "M12 3.5a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0v-5a3 3 0 0 1 3-3zM6 11.5a6 6 0 0 0 12 0M12 17.5V21",
  plus: "M12 5v14M5 12h14", minus: "M5 12h14", close: "M6 6l12 12M18 6L6 18",
  like: "M8.5 6.5a5.5 5.5 0 1 0 .01 0zM15.5 6.5a5.5 5.5 0 1 1-.01 0z",
  why: "M12 3.5a8.5 8.5 0 1 0 .01 0zM9.6 9.6a2.5 2.5 0 1 1 3.6 2.3c-.8.4-1.2.9-1.2 1.7M12 16.6h.01",
  play: "M8 5.5v13l11-6.5z", pause: "M8 5.5v13M16 5.5v13",
  grid: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  map: "M6 7.5h.01M11 16h.01M17.5 6h.01M16 13h.01M7 13h.01M12 10h.01M19 18h.01M5 19h.01",
  filter: "M4 6h16M7 12h10M10 18h4", down: "M6 9.5l6 6 6-6", left: "M15 5l-7 7 7 7", right: "M9 5l7 7-7 7",
  add: "M12 16V5M7.5 9.5L12 5l4.5 4.5M4 16v4h16v-4", trash: "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13",
  open: "M13 5h6v6M19 5l-8 8M17 14v5H5V7h5", fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
};
const HEAVY = new Set(["map"]);

export const Icon = ({ name }) => html`
  <svg class=${`icon ${HEAVY.has(name) ? "heavy" : ""}`} viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
