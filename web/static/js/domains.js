// The toggles of the domains. Where they do not fit in one row (a phone), a button counts those out of sight and unfolds
// them all.
import { byId, h, reconcile, setAttr, setText } from "./dom.js";
import { nameOf } from "./format.js";
import { t } from "./i18n.js";
import { on, shows, store } from "./store.js";

/** `setDomains(Set|null)` when a toggle is used. */
export function startDomains(setDomains) {
  const row = byId("domains");
  const more = byId("domains-more");
  on("stations choice lang catalogue", () => {
    drawDomains(setDomains);
    drawMore(row, more);
  });
  row.addEventListener("scroll", () => drawMore(row, more), { passive: true });
  new ResizeObserver(() => drawMore(row, more)).observe(row);
  more.addEventListener("click", () => {
    row.classList.toggle("all");
    drawMore(row, more);
  });
}

/** How many chips are out of sight to the right; once all were unfolded, the way back. */
function drawMore(row, more) {
  const unfolded = row.classList.contains("all");
  const edge = row.getBoundingClientRect().right + 1;
  const out = [...row.children].filter((chip) => chip.getBoundingClientRect().right > edge).length;
  setAttr(row, "data-hidden", out || null);
  more.hidden = !unfolded && row.scrollWidth <= row.clientWidth + 1;
  setText(more, unfolded ? "▴" : out ? `+${out} ▾` : "▾");
  const words = unfolded ? t("domains_less") : t("domains_more", out);
  setAttr(more, "aria-label", words);
  setAttr(more, "title", words);
  setAttr(more, "aria-expanded", String(unfolded));
}

/** The catalogue's domains that have a station, in its order. */
export const domainsInUse = () => {
  const used = new Set([...store.stations.values()].map((place) => place.domain));
  return (store.catalogue?.domains ?? []).filter((domain) => used.has(domain.key));
};

function drawDomains(setDomains) {
  const counts = new Map();
  for (const place of store.stations.values()) counts.set(place.domain, (counts.get(place.domain) ?? 0) + 1);
  reconcile(byId("domains"), domainsInUse(), {
    key: (domain) => domain.key,
    make: (domain) => h("button", { type: "button", class: "chip", onclick: () => toggle(domain.key, setDomains) }, h("span"), h("i")),
    update: (button, domain) => {
      setText(button.firstChild, nameOf(domain));
      setText(button.lastChild, counts.get(domain.key));
      button.setAttribute("aria-pressed", String(shows(domain.key)));
    },
  });
}

function toggle(key, setDomains) {
  const all = domainsInUse().map((domain) => domain.key);
  const chosen = new Set(all.filter(shows));
  if (chosen.has(key)) chosen.delete(key);
  else chosen.add(key);
  setDomains(chosen.size === all.length ? null : chosen);
}
