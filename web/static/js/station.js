// The chosen station on the right: who it is, what it says now, the last day, and why.
import { ApiError, apiUrl, get } from "./api.js";
import { drawChart } from "./chart.js";
import { joined } from "./chartdata.js";
import { byId, emptyState, h, setText, skeleton } from "./dom.js";
import { openExplain } from "./explain.js";
import { age, dayTime, nameOf, number, otherName, ZONE, zoneOf } from "./format.js";
import { lang, t } from "./i18n.js";
import { drawReadingAges, drawReadings, flagBadge, readingsTable, setFlag } from "./readings.js";
import { fillSparks } from "./spark.js";
import { now, on, property, seriesKey, seriesOf, station, store } from "./store.js";
import { onTheme } from "./theme.js";

const DAY_MS = 86_400_000;
const TAIL_MS = 3000; //  at most one request for new points in this time
const SPARKS_MS = 60_000;

let hooks = null;
let view = null; //  {id, chosen:{property, channel}, parts, chart, series, pinned, abort, sparksAt, tailFrom and tailNext: oldest point to ask for now, and once more}

/** `hooks.close()` and `hooks.property(key)` tell the address. */
export function startStation(given) {
  hooks = given;
  on("choice lang catalogue", open);
  on("latest", refresh);
  on("readings", (rows) => tail(rows.filter(charted)));
  on("stations", () => view && (store.stations.has(view.id) ? header() : open()));
  on("tick", ages);
  on("link", ({ recovered }) => {
    if (!recovered || !view?.chosen.property) return;
    loadChart();
    loadSparks();
  });
  onTheme(() => view?.series && paintChart());
}

function open() {
  const id = store.choice.station;
  const panel = byId("station");
  const wanted = store.choice.property;
  if (view && view.id === id && view.lang === lang() && view.catalogue === store.catalogue) {
    // An alert may be on an index, of which there is no series to draw.
    const drawn = seriesOf(id).some((item) => item.property === wanted);
    if (drawn && wanted !== view.chosen.property) choose({ property: wanted, channel: "main" });
    return;
  }
  leave();
  panel.hidden = !id;
  document.body.classList.toggle("with-station", Boolean(id));
  if (!id || !store.catalogue) return;
  if (!station(id)) {
    const back = h("button", { type: "button", onclick: () => hooks.close() }, t("close"));
    panel.replaceChildren(emptyState(t("station_gone", id), t("station_gone_hint"), back));
    return;
  }
  const all = seriesOf(id);
  const first = all.find((item) => item.property === wanted) ?? all.find((item) => item.property === station(id).headline?.property) ?? all[0];
  view = { id, lang: lang(), catalogue: store.catalogue, chosen: { property: first?.property ?? null, channel: first?.channel ?? "main" }, abort: new AbortController(), chart: null, series: null, pinned: null, tailTimer: 0, tailFrom: Infinity, tailNext: Infinity, sparksAt: Infinity };
  build(panel, all);
}

function leave() {
  if (!view) return;
  view.abort.abort();
  clearTimeout(view.tailTimer);
  view.chart?.destroy();
  view = null;
}

function build(panel, all) {
  const table = readingsTable();
  const parts = {
    name: h("h2"), where: h("p", { class: "where" }), facts: h("p", { class: "where" }), hero: hero(), body: table.querySelector("tbody"),
    chartTitle: h("h3"), chart: h("div", { class: "chart", tabindex: "0", role: "img" }), note: h("p", { class: "hint" }),
    why: h("button", { type: "button", class: "primary", onclick: why }), csv: h("a", { class: "button", download: "" }, t("export_csv")), json: h("a", { class: "button", target: "_blank", rel: "noopener" }, t("export_json")),
  };
  view.parts = parts;
  const close = h("button", { type: "button", class: "ghost", "aria-label": t("close"), onclick: () => hooks.close() }, "✕");
  const top = h("div", { class: "st" }, h("div", {}, parts.name, parts.where, parts.facts), close);
  panel.scrollTop = 0;
  if (!all.length) panel.replaceChildren(top, emptyState(t("readings_none"), t("readings_none_hint")));
  else panel.replaceChildren(top, parts.hero, table, parts.chartTitle, parts.chart, h("div", { class: "acts" }, parts.why, parts.csv, parts.json), parts.note);
  header();
  if (!all.length) return;
  refresh(null);
  loadChart();
  loadSparks();
}

async function loadSparks() {
  const mine = view;
  mine.sparksAt = Infinity; //  not again before all are there
  const rows = new Map([...mine.parts.body.children].map((row) => [row.dataset.key, row]));
  const wanted = seriesOf(mine.id).filter((item) => rows.has(item.key));
  const targets = wanted.map((item) => ({ ...item, element: rows.get(item.key).querySelector(".spark") }));
  await fillSparks(targets, station(mine.id).interval_s, mine.abort.signal);
  mine.sparksAt = now();
}

function header() {
  const place = station(view.id);
  const { name, where, facts } = view.parts;
  const other = otherName(place);
  name.replaceChildren(nameOf(place) || place.id, ...(other ? [" ", h("small", {}, other)] : []));
  const domain = nameOf(store.catalogue.domains.find((item) => item.key === place.domain)) || place.domain;
  const spots = [domain, nameOf(place, "district"), place.street, place.community, place.id].filter(Boolean);
  where.replaceChildren(`${spots.join(" · ")} · `, h("span", { class: `state ${place.state}` }, stateWords(place)));
  const words = [`${t("interval")} ${age(place.interval_s * 1000)}`];
  if (zoneOf(place) !== ZONE) words.push(`${t("time_zone")} ${zoneOf(place)}`);
  if (place.heard_ms) words.push(`${t("heard")} ${age(now() - place.heard_ms)}`);
  if (place.water_class) words.push(`${t("water_class")} ${t("class_n", place.water_class)}`);
  if (place.noise_class) words.push(`${t("noise_class")} ${t("class_n", place.noise_class)}`);
  setText(facts, words.join(" · "));
}

/** The state, since when, and the person, route or rule that tells of it. */
function stateWords(place) {
  const words = [t(`state_${place.state}`)];
  if (place.state_since_ms) words.push(t("state_since", dayTime(place.state_since_ms, now(), zoneOf(place))));
  const alert = store.alerts.get(place.state_by);
  if (place.state_by) words.push(alert ? nameOf(alert, "rule") : place.state_by);
  return words.join(" · ");
}

function hero() {
  const term = (name) => [h("dt", {}, t(name)), h("dd")];
  return h("div", { class: "hero" }, h("div", { class: "big" }, h("b"), h("span")), h("dl", {}, h("dt", {}, t("reading_property")), h("dd"), ...term("measured"), h("dt", {}, t("quality")), h("dd", {}, flagBadge())));
}

function refresh(touched) {
  if (!view?.parts) return;
  if (touched && ![...touched].some((key) => key.startsWith(`${view.id}|`))) return;
  const all = seriesOf(view.id);
  if (!view.chosen.property) {
    if (all.length) reopen();
    return;
  }
  drawReadings(view.parts.body, all, { chosen: view.chosen, intervalS: station(view.id)?.interval_s, choose });
  drawHero();
}

function reopen() {
  leave();
  open();
}

const current = () => store.latest.get(seriesKey(view.id, view.chosen.property, view.chosen.channel)) ?? null;

/** The reading in question: the point that was clicked on the chart, else the latest. */
function subject() {
  const { series, pinned } = view;
  const at = pinned === null || !series ? -1 : series.times_ms.indexOf(pinned);
  if (at >= 0) return { time_ms: pinned, value: series.values[at], flag: series.flags[at], tests: series.tests[at] };
  return current();
}

function drawHero() {
  const item = subject();
  const place = station(view.id);
  if (!item || !place) return;
  const meta = property(view.chosen.property);
  const [big, list] = view.parts.hero.children;
  const value = number(item.value, meta?.precision);
  setText(big.firstChild, value);
  setText(big.lastChild, meta?.unit_label ?? "");
  const alert = [...store.alerts.values()].find((a) => a.station === view.id && a.property === view.chosen.property && (a.state === "open" || a.state === "acknowledged"));
  big.dataset.level = alert ? alert.level : 0;
  const fields = list.querySelectorAll("dd");
  setText(fields[0], nameOf(meta) || view.chosen.property);
  setText(fields[1], `${dayTime(item.time_ms, now(), zoneOf(place))} (${age(now() - item.time_ms)})`);
  setFlag(fields[2].firstChild, item.flag, item.tests);
  setText(view.parts.why, t("why", value));
}

function ages() {
  if (!view?.parts || !station(view.id)) return;
  header();
  if (!view.chosen.property) return;
  drawReadingAges(view.parts.body, seriesOf(view.id), station(view.id).interval_s);
  drawHero();
  if (now() - view.sparksAt > SPARKS_MS && store.link.state === "live" && !document.hidden) loadSparks();
}

function choose(item) {
  if (item.property === view.chosen.property && item.channel === view.chosen.channel) return;
  view.chosen = { property: item.property, channel: item.channel };
  view.pinned = null;
  hooks.property(item.property);
  refresh(null);
  loadChart();
}

const charted = (row) => view && row.station === view.id && row.property === view.chosen.property && row.channel === view.chosen.channel;
const which = () => ({ station: view.id, property: view.chosen.property, channel: view.chosen.channel });
const query = (from) => ({ ...which(), from_ms: from, to_ms: Math.round(now()) });

async function loadChart() {
  if (!view?.chosen.property) return;
  const { parts, id, chosen } = view;
  const meta = property(chosen.property);
  setText(parts.chartTitle, t("chart", nameOf(meta) || chosen.property));
  const ask = query(Math.round(now() - DAY_MS));
  //  without a range: the last day up to the click, which may come hours later
  parts.csv.href = apiUrl("series", { ...which(), format: "csv" });
  parts.json.href = apiUrl("series", which());
  view.chart?.destroy();
  view.chart = view.series = null;
  view.tailFrom = view.tailNext = Infinity;
  parts.chart.replaceChildren(skeleton(5));
  setText(parts.note, "");
  const stale = () => view?.id !== id || view.chosen !== chosen;
  try {
    const series = await get("series", ask, view.abort.signal);
    if (stale()) return;
    view.series = series;
    paintChart();
    tail([]); //  what came meanwhile
  } catch (error) {
    if (error.name === "AbortError" || stale()) return;
    if (!(error instanceof ApiError)) throw error;
    const again = h("button", { type: "button", onclick: loadChart }, t("retry"));
    parts.chart.replaceChildren(emptyState(t("chart_failed", error[lang()]), null, again));
  }
}

function paintChart() {
  const { parts, series } = view;
  view.chart?.destroy();
  view.chart = null;
  if (!series.times_ms.length) {
    parts.chart.replaceChildren(emptyState(t("chart_none"), t("chart_none_hint")));
    return;
  }
  const place = station(view.id);
  const meta = property(view.chosen.property);
  const onPin = (index) => {
    view.pinned = view.series.times_ms[index];
    drawHero();
  };
  view.chart = drawChart(parts.chart, series, { intervalS: place.interval_s, precision: meta?.precision, zone: zoneOf(place), onPin });
  parts.chart.setAttribute("aria-label", `${t("chart", nameOf(meta))}. ${t("chart_help")}`);
  const limits = (series.limits ?? []).map((limit) => nameOf(limit, "name"));
  const notes = [series.flags.some((flag) => flag === 3 || flag === 4) ? t("chart_flagged") : "", limits.join("; "), series.truncated ? t("chart_truncated") : ""];
  setText(parts.note, notes.filter(Boolean).join(" · "));
}

/** New points come from the store, with their revision and time of receipt; the live value is already in the table. */
function tail(rows) {
  if (!view) return;
  const day = now() - DAY_MS; //  what is still older has no place on the chart
  const oldest = Math.min(view.tailFrom, ...rows.map((row) => row.time_ms).filter((ms) => ms >= day));
  if (oldest === Infinity) return;
  view.tailFrom = oldest;
  //  a question that is about to be asked may come before the store has these rows
  if (view.tailTimer && rows.length) view.tailNext = Math.min(view.tailNext, oldest);
  if (view.series && !view.tailTimer) view.tailTimer = setTimeout(fetchTail, TAIL_MS);
}

async function fetchTail() {
  const mine = view;
  const { series, id, chosen, tailFrom } = mine;
  if (!series) {
    mine.tailTimer = 0;
    return; //  the whole chart is on its way, and then asks for what came meanwhile
  }
  const overlap = 5 * (station(id)?.interval_s ?? 60) * 1000; //  a pending check may still revise the last ones
  const day = Math.round(now() - DAY_MS);
  let failed = false;
  [mine.tailFrom, mine.tailNext] = [mine.tailNext, Infinity];
  try {
    const from = Math.max(Math.min((series.times_ms.at(-1) ?? 0) - overlap, tailFrom), day);
    const more = await get("series", query(from), mine.abort.signal);
    if (view === mine && mine.chosen === chosen && mine.series === series) {
      mine.series = joined(series, more, from, day);
      if (mine.chart) mine.chart.update(mine.series);
      else paintChart();
    }
  } catch (error) {
    if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
    mine.tailFrom = Math.min(mine.tailFrom, tailFrom); //  the next reading asks again
    failed = true;
  }
  mine.tailTimer = 0; //  one after the other, so that none is joined to what another has replaced
  if (!failed && view === mine) tail([]);
}

function why() {
  const item = subject();
  const meta = property(view.chosen.property);
  const title = t("why_title", nameOf(station(view.id)), nameOf(meta) || view.chosen.property, number(item.value, meta?.precision));
  openExplain(title, { station: view.id, ...view.chosen, time_ms: item.time_ms }, zoneOf(station(view.id)));
}
