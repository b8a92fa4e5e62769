// Starts the page: reads the address, loads, wires the parts together. Each part knows the store, none the others.
import { readAddress, writeAddress } from "./address.js";
import { acknowledgePointed, startAlerts, step } from "./alerts.js";
import { ApiError } from "./api.js";
import { startAreas } from "./areas.js";
import { byId, emptyState, h, setText, skeleton } from "./dom.js";
import { openDuty, startDuty } from "./duty.js";
import { hhmmss } from "./format.js";
import { lang, setLang, t } from "./i18n.js";
import { startKeyboard } from "./keyboard.js";
import { connect, loadAll, watch } from "./live.js";
import { hasWebGl, home, panBy, relabel, reveal, startMap, zoomBy } from "./map.js";
import { startMapFrame } from "./mapframe.js";
import { openQuarantine } from "./quarantine.js";
import { startSearch } from "./search.js";
import { startSheet } from "./sheet.js";
import { startSituation } from "./situation.js";
import { startStation } from "./station.js";
import { emit, on, store } from "./store.js";
import { startStrip } from "./strip.js";
import { isDark, onTheme, setTheme, startTheme } from "./theme.js";
import { toast } from "./toast.js";

const LANG = "qingtu.lang";
const address = readAddress();

function choose(id, property = null, { push = true } = {}) {
  Object.assign(store.choice, { station: id, property });
  writeAddress({ s: id, p: property }, { push });
  byId("left").classList.remove("open");
  emit("choice");
  if (id) reveal(id);
}

function setDomains(domains) {
  store.choice.domains = domains;
  writeAddress({ d: domains && [...domains].join(",") });
  emit("choice");
}

function words() {
  document.title = t("title");
  for (const element of document.querySelectorAll("[data-t]")) setText(element, t(element.dataset.t));
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const element of document.querySelectorAll("[data-t-title]")) element.title = t(element.dataset.tTitle);
  drawTheme();
  drawLink();
}

function drawTheme() {
  const label = t(isDark() ? "theme_light" : "theme_dark");
  byId("theme").setAttribute("aria-label", label);
  byId("theme").title = label;
}

function drawLink() {
  const { link } = store;
  const offline = link.state === "offline";
  byId("offline").hidden = !offline;
  document.body.classList.toggle("offline", offline);
  if (!offline) return;
  setText(byId("offline-since"), t("offline", hhmmss(link.since_ms)));
  setText(byId("offline-hint"), t("offline_hint"));
}

function startTop() {
  byId("lang").addEventListener("click", () => {
    setLang(lang() === "zh" ? "en" : "zh");
    localStorage.setItem(LANG, lang());
    writeAddress({ lang: lang() });
    words();
    emit("lang");
    relabel();
  });
  byId("theme").addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    writeAddress({ theme: isDark() ? "dark" : "light" });
  });
  onTheme(drawTheme);
  byId("bell").addEventListener("click", () => byId("left").classList.toggle("open"));
  byId("zoom-in").addEventListener("click", () => zoomBy(1));
  byId("zoom-out").addEventListener("click", () => zoomBy(-1));
  byId("zoom-home").addEventListener("click", home);
  byId("quarantine").addEventListener("click", showQuarantine);
}

function showQuarantine() {
  writeAddress({ sheet: "quarantine" });
  openQuarantine(() => writeAddress({ sheet: null }));
}

async function load() {
  byId("failed").hidden = true;
  try {
    await loadAll();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    byId("failed").hidden = false;
    const again = h("button", { type: "button", class: "primary", onclick: load }, t("retry"));
    byId("failed").replaceChildren(emptyState(t("failed", error[lang()]), t("failed_hint"), again));
    return;
  }
  byId("alerts-skeleton").remove();
  emit("choice");
  document.body.dataset.loaded = "yes";
  connect();
  watch();
  if (address.sheet === "quarantine") showQuarantine();
  if (store.choice.station && !address.view) reveal(store.choice.station);
}

/** Another address in the same tab: the Back button, or a link that was pasted. */
function follow() {
  const next = readAddress();
  Object.assign(store.choice, { station: next.station, property: next.property, domains: next.domains });
  if (next.lang && next.lang !== lang()) {
    setLang(next.lang);
    words();
    emit("lang");
    relabel();
  }
  if (next.theme) setTheme(next.theme);
  emit("choice");
  emit("duty");
}

function startPage() {
  setLang(address.lang ?? localStorage.getItem(LANG) ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
  startTheme(address.theme);
  Object.assign(store.choice, { station: address.station, property: address.property, domains: address.domains });
  byId("alerts-skeleton").append(skeleton(9));
  startTop();
  startSheet();
  startDuty();
  startStrip();
  startAlerts({ choose, needToken: openDuty });
  startSituation(choose);
  startAreas();
  startSearch((id) => choose(id));
  startStation({ close: () => choose(null), property: (key) => { store.choice.property = key; writeAddress({ p: key }); } });
  const withMap = hasWebGl();
  startMapFrame({ setDomains, choose, withMap });
  if (withMap) startMap({ view: address.view, onChoose: (id) => id !== store.choice.station && choose(id), onView: (view) => writeAddress({ v: view }) });
  startKeyboard({ step, acknowledge: acknowledgePointed, close: closeTop, pan: panBy });
  on("link", ({ recovered }) => {
    drawLink();
    if (recovered) toast(t("back"));
  });
  addEventListener("hashchange", follow);
  addEventListener("popstate", follow);
  setInterval(() => emit("tick"), 1000);
  words();
  emit("lang");
  load();
}

function closeTop() {
  if (byId("left").classList.contains("open")) byId("left").classList.remove("open");
  else if (store.choice.station) choose(null);
}

startPage();
