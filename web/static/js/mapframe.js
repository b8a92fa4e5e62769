// What stands around the map: the legend, and the list of stations where no map can be drawn.
import { byId, emptyState, h, reconcile, setText } from "./dom.js";
import { domainsInUse, startDomains } from "./domains.js";
import { age, nameOf, number } from "./format.js";
import { t } from "./i18n.js";
import { formIcon, formOf, holdsText, paint } from "./marks.js";
import { now, on, property, shows, store } from "./store.js";
import { onTheme, palette } from "./theme.js";

/** `setDomains(Set|null)` when a toggle is used; `choose(id)` from the list. */
export function startMapFrame({ setDomains, choose, withMap }) {
  startDomains(setDomains);
  on("stations choice lang catalogue", () => {
    drawEmpty(setDomains);
    if (!withMap) drawList(choose);
  });
  on("catalogue lang", drawLegend);
  onTheme(drawLegend);
  byId("legend").open = !matchMedia("(max-width: 899px), (max-height: 620px)").matches;
  if (withMap) return;
  byId("map-area").classList.add("no-map");
  on("latest", () => drawList(choose));
}

function drawEmpty(setDomains) {
  const box = byId("map-empty");
  const none = store.stations.size > 0 && ![...store.stations.values()].some((place) => shows(place.domain));
  box.hidden = !none;
  if (!none) return;
  const all = h("button", { type: "button", onclick: () => setDomains(null) }, t("map_show_all"));
  box.replaceChildren(emptyState(t("map_empty"), t("map_empty_hint"), all));
}

function drawLegend() {
  if (!store.catalogue) return;
  const colours = palette();
  const calm = { fill: colours.calm, ink: colours.calmInk, edge: colours.calmEdge };
  const seen = new Set();
  const forms = [];
  for (const domain of domainsInUse()) {
    const form = formOf(domain.key);
    const key = `${form}${nameOf(domain)}`;
    if (!seen.has(key)) forms.push(h("span", {}, formIcon(form, calm), nameOf(domain)));
    seen.add(key);
  }
  const level = (n, name) => h("i", { "data-level": n }, n ? `${n} ${name}` : name);
  const levels = [level(0, t("legend_none")), ...store.catalogue.levels.map((item) => level(item.n, nameOf(item)))];
  const place = (state) => formIcon("disc", paint({ state }, colours));
  byId("legend").replaceChildren(
    h("summary", {}, t("legend")),
    h("div", { class: "bar", role: "img", "aria-label": t("legend_colour") }, levels),
    h(
      "div",
      { class: "keys" },
      forms,
      h("span", {}, place("silent"), t("legend_silent")),
      h("span", {}, place("failing"), t("legend_failing")),
      h("span", {}, place("link_down"), t("legend_down")),
      h("span", {}, place("clock_wrong"), t("legend_clock")),
      h("span", {}, place("maintenance"), t("legend_maintenance")),
    ),
    figureKey(),
  );
}

/** Which property the figure on a pill, drop or disc is: several when a domain's stations differ. */
function figureKey() {
  const lines = [];
  for (const domain of domainsInUse()) {
    if (!holdsText(formOf(domain.key))) continue;
    const keys = new Set([...store.stations.values()].filter((p) => p.domain === domain.key && p.headline).map((p) => p.headline.property));
    const names = [...keys].map((key) => `${nameOf(property(key)) || key} ${property(key)?.unit_label ?? ""}`.trim());
    if (names.length) lines.push(h("div", {}, h("dt", {}, nameOf(domain)), h("dd", {}, names.join(", "))));
  }
  return lines.length ? h("dl", { class: "figure-key", "aria-label": t("legend_value") }, lines) : "";
}

function drawList(choose) {
  const box = byId("station-list");
  if (!box.childElementCount) {
    box.append(h("div", { class: "empty" }, h("p"), h("p", { class: "hint" })), h("ul"));
  }
  setText(box.querySelector("p"), t("map_none"));
  setText(box.querySelector(".hint"), t("map_none_hint"));
  const places = [...store.stations.values()].filter((place) => shows(place.domain));
  reconcile(box.lastElementChild, places, {
    key: (place) => place.id,
    make: (place) => h("li", {}, h("button", { type: "button", onclick: () => choose(place.id) }, h("b"), h("span"), h("small"))),
    update: (item, place) => {
      const [name, value, state] = item.firstChild.children;
      const head = place.headline;
      const meta = head ? property(head.property) : null;
      setText(name, nameOf(place) || place.id);
      setText(value, head ? `${nameOf(meta)} ${number(head.value, meta?.precision)} ${head.unit_label ?? ""} · ${age(now() - head.time_ms)}` : "—");
      setText(state, t(`state_${place.state}`));
      item.firstChild.setAttribute("aria-pressed", String(place.id === store.choice.station));
    },
  });
}
