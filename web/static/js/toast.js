// Short messages at the edge: what happened, what is safe. Read out by screen readers, gone after a while.
import { byId, h } from "./dom.js";

export function toast(text, kind = "good") {
  const box = h("div", { class: `toast ${kind}` }, text);
  byId("toasts").append(box);
  setTimeout(() => box.remove(), kind === "bad" ? 9000 : 4000);
}
