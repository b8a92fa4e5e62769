// One modal sheet for what is read at length: explanations, quarantine, the duty token. The browser's own dialog
// keeps the focus inside and closes on Esc.
import { byId } from "./dom.js";
import { t } from "./i18n.js";

let onClosed = null;

export function startSheet() {
  const sheet = byId("sheet");
  byId("sheet-close").addEventListener("click", () => sheet.close());
  sheet.addEventListener("click", (event) => event.target === sheet && sheet.close());
  sheet.addEventListener("close", () => {
    const done = onClosed;
    onClosed = null;
    done?.();
  });
}

/** Show `body` under `title`; `kind` sets its width; `closed()` is called once when it goes away. */
export function openSheet(title, body, { kind = "narrow", closed = null } = {}) {
  const sheet = byId("sheet");
  onClosed = null;
  if (sheet.open) sheet.close();
  sheet.dataset.kind = kind;
  byId("sheet-title").textContent = title;
  byId("sheet-close").setAttribute("aria-label", t("close"));
  byId("sheet-body").replaceChildren(...[body].flat());
  sheet.showModal();
  //  a "close" event of the sheet before this one is still on its way: listen after it
  setTimeout(() => (onClosed = closed));
}

export const closeSheet = () => byId("sheet").close();

export const sheetOpen = () => byId("sheet").open;
