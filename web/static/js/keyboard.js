// Keys: / search, j k through alerts, a acknowledge, Esc close, arrows move the map.
import { byId } from "./dom.js";
import { sheetOpen } from "./sheet.js";

const PAN = { ArrowLeft: [-90, 0], ArrowRight: [90, 0], ArrowUp: [0, -90], ArrowDown: [0, 90] };

/** `acts`: {step(by), acknowledge(), close(), pan(x, y)}. */
export function startKeyboard(acts) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || sheetOpen()) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    if (handle(event, acts)) event.preventDefault();
  });
}

function handle(event, acts) {
  switch (event.key) {
    case "/":
      byId("search").focus();
      return true;
    case "j":
      acts.step(1);
      return true;
    case "k":
      acts.step(-1);
      return true;
    case "a":
      acts.acknowledge();
      return true;
    case "Escape":
      acts.close();
      return true;
    default:
      if (!(event.key in PAN) || event.target !== document.body) return false;
      acts.pan(...PAN[event.key]);
      return true;
  }
}
