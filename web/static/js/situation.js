// Four figures of the situation, each computed here from what the page holds, none of them assumed.
import { byId, h, setAttr, setText } from "./dom.js";
import { age, nameOf, number } from "./format.js";
import { t } from "./i18n.js";
import { now, on, property, station, store } from "./store.js";

const FRESH_INTERVALS = 3;
const FRESH_MIN_MS = 600_000;

/** `choose(station, property)` opens the station a figure comes from. */
export function startSituation(choose) {
  const tile = (id) => {
    const button = h("button", { class: "tile", id: `fig-${id}`, type: "button" }, h("b"), h("span"), h("small"));
    button.addEventListener("click", () => button.dataset.station && choose(button.dataset.station, button.dataset.property));
    return button;
  };
  byId("tiles").replaceChildren(tile("online"), tile("alerts"), tile("wave"), tile("pm25"));
  on("stations latest lang link", draw);
}

let timer = 0;
function draw() {
  if (timer) return;
  timer = setTimeout(() => {
    timer = 0;
    drawNow();
  }, 250);
}

function drawNow() {
  const places = [...store.stations.values()];
  if (!places.length) return;
  const of = (state) => places.filter((place) => place.state === state).length;
  const lost = of("silent") + of("link_down") + of("gateway_down");
  const online = places.length - lost - of("unheard");
  const share = Math.floor((online / places.length) * 1000) / 10; //  down, so that 100 % means all
  show("online", `${share.toFixed(1)}%`, "", t("fig_online"), `${online} / ${places.length}`,
    t("fig_online_hint", online, places.length, lost, of("unheard")));
  const alarmed = places.filter((place) => place.alert_level > 0);
  const open = alarmed.filter((place) => place.unacknowledged).length;
  show("alerts", alarmed.length, "", t("fig_alerts"), "", t("fig_alerts_hint", alarmed.length, open));
  highest("wave", "significant_wave_height", t("fig_wave"));
  highest("pm25", "pm25", t("fig_pm25"));
}

function highest(id, key, label) {
  let best = null;
  for (const [name, reading] of store.latest) {
    const [where, prop, channel] = name.split("|");
    if (prop !== key || channel !== "main" || !Number.isFinite(reading.value)) continue;
    if (reading.flag !== 1 && reading.flag !== 2) continue;
    const place = station(where);
    if (!place || now() - reading.time_ms > Math.max(FRESH_INTERVALS * place.interval_s * 1000, FRESH_MIN_MS)) continue;
    if (!best || reading.value > best.value) best = { ...reading, place };
  }
  const meta = property(key);
  const tile = byId(`fig-${id}`);
  tile.dataset.property = key;
  if (best) tile.dataset.station = best.place.id;
  else delete tile.dataset.station;
  if (!best) show(id, "—", meta?.unit_label ?? "", label, "", t("fig_none"));
  else {
    const where = nameOf(best.place);
    show(id, number(best.value, meta?.precision), meta?.unit_label ?? "", label, where, t("fig_at", where, age(now() - best.time_ms)));
  }
}

function show(id, value, unit, label, small, hint) {
  const tile = byId(`fig-${id}`);
  const [figure, name, note] = tile.children;
  if (figure.childNodes.length !== 2) figure.replaceChildren(document.createTextNode(""), h("i"));
  setText(figure.firstChild, value);
  setText(figure.lastChild, unit);
  setText(name, label);
  setText(note, small);
  setAttr(tile, "title", hint);
}
