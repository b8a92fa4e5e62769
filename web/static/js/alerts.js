// The list of alerts. While the pointer or the keyboard is in it, nothing moves: cards change in place, and new
// ones wait behind a count until the operator has left. Of very many only the most urgent have a card; all are counted.
import { ApiError, post, token } from "./api.js";
import { byId, emptyState, h, reconcile, setAttr, setText } from "./dom.js";
import { age, hhmm, integer, nameOf, number } from "./format.js";
import { lang, t } from "./i18n.js";
import { now, on, property, standing, station, store } from "./store.js";
import { drawTimeline, stepsOf } from "./timeline.js";
import { toast } from "./toast.js";

const MOST_CARDS = 500;

let hooks = null;
let pointed = null; //  the alert that j, k and a are about
const sending = new Set();
let unfolded = null; //  the incident whose timeline is shown

/** `hooks.choose(station, property)` opens a station, `hooks.needToken(then)` asks for the duty token. */
export function startAlerts(given) {
  hooks = given;
  const list = byId("alerts");
  on("alerts stations lang", draw);
  on("tick", drawAges);
  list.addEventListener("pointerleave", draw);
  list.addEventListener("focusout", () => setTimeout(draw));
  byId("alerts-wait").addEventListener("click", () => draw({ force: true }));
}

export function step(by) {
  const keys = [...byId("alerts").children].map((card) => card.dataset.key);
  if (!keys.length) return;
  const at = keys.indexOf(pointed);
  pointed = keys[Math.min(Math.max(at + by, 0), keys.length - 1)];
  const card = cardOf(pointed);
  card.querySelector(".alert-open").focus();
  card.scrollIntoView({ block: "nearest" });
}

export function acknowledgePointed() {
  const alert = store.alerts.get(pointed);
  if (alert?.state === "open") openForm(alert.id);
}

const cardOf = (id) => [...byId("alerts").children].find((card) => card.dataset.key === id) ?? null;

function busy() {
  const list = byId("alerts");
  return list.matches(":hover") || list.contains(document.activeElement);
}

function draw(options = {}) {
  const list = byId("alerts");
  const current = standing();
  drawCounts(current);
  const top = current.slice(0, MOST_CARDS);
  let shown = top;
  let waiting = 0;
  if (busy() && !options.force && list.children.length) {
    const keys = new Set([...list.children].map((card) => card.dataset.key));
    shown = [...keys].map((key) => store.alerts.get(key)).filter(Boolean);
    waiting = top.filter((alert) => !keys.has(alert.id)).length + shown.filter(ended).length;
  }
  reconcile(list, shown, { key: (alert) => alert.id, make, update });
  const wait = byId("alerts-wait");
  wait.hidden = waiting === 0;
  setText(wait, t("alerts_new", waiting));
  const none = byId("alerts-none");
  none.hidden = shown.length > 0;
  none.replaceChildren(emptyState(t("alerts_none"), t("alerts_none_hint")));
}

/** How many stand, however many have a card. */
function drawCounts(current) {
  const open = current.filter((alert) => alert.state === "open");
  const counted = open.length ? open : current;
  const count = (alerts) => `${integer(alerts.length)}${store.alertsCut && alerts.length === current.length ? "+" : ""}`;
  for (const badge of document.querySelectorAll("[data-alert-count]")) {
    setText(badge, count(counted));
    badge.hidden = !current.length;
    badge.dataset.level = open.reduce((worst, alert) => Math.max(worst, alert.level), 0);
  }
  setAttr(byId("bell"), "aria-label", t("bell", count(current)));
  const more = byId("alerts-more");
  more.hidden = current.length <= MOST_CARDS;
  setText(more, t("alerts_more", count(current), MOST_CARDS));
}

const ended = (alert) => alert.state === "resolved" || alert.state === "withdrawn";

function make(alert) {
  const id = alert.id;
  const open = h("button", { class: "alert-open", type: "button", onclick: () => choose(id) });
  open.append(h("b"), h("span", { class: "alert-what" }), h("span", { class: "alert-more" }));
  const card = h(
    "li",
    { class: "alert", onfocusin: () => (pointed = id) },
    h("span", { class: "lv" }),
    open,
    h("div", { class: "alert-side" }, h("time"), h("button", { class: "ack", type: "button", onclick: () => openForm(id) }), h("small")),
  );
  return card;
}

function choose(id) {
  pointed = id;
  const alert = store.alerts.get(id);
  if (!alert) return;
  unfolded = unfolded === id || !stepsOf(alert).length ? null : id;
  draw();
  if (alert.station) hooks.choose(alert.station, alert.property);
}

function update(card, alert) {
  const place = station(alert.station);
  card.dataset.level = alert.level;
  card.dataset.state = alert.state;
  const badge = card.querySelector(".lv");
  setText(badge, alert.level);
  const levelName = nameOf(store.catalogue.levels.find((level) => level.n === alert.level)) || alert.level_key;
  setAttr(badge, "title", t("alert_level", levelName, alert.level));
  setAttr(badge, "aria-label", t("alert_level", levelName, alert.level));
  badge.setAttribute("role", "img");
  setText(card.querySelector("b"), nameOf(place) || alert.station || about(alert));
  setText(card.querySelector(".alert-what"), nameOf(alert, "rule"));
  setText(card.querySelector(".alert-more"), measure(alert));
  const time = card.querySelector("time");
  setText(time, hhmm(alert.opened_ms));
  time.dateTime = new Date(alert.opened_ms).toISOString();
  const button = card.querySelector(".ack");
  button.hidden = alert.state !== "open";
  button.disabled = sending.has(alert.id);
  setText(button, t(button.disabled ? "alert_sending" : "alert_ack"));
  setText(card.querySelector("small"), outcome(alert));
  if (alert.state !== "open") card.querySelector("form")?.remove();
  if (stepsOf(alert).length) setAttr(card.querySelector(".alert-open"), "aria-expanded", String(unfolded === alert.id));
  drawTimeline(card, alert, unfolded === alert.id);
}

/** What an alert without a station is about: its network or route, and how many stations; or who tells of itself. */
function about(alert) {
  const { network, route, source, stations = [] } = alert.evidence ?? {};
  if (source) return t("alert_system", source);
  return `${nameOf(store.catalogue.networks[network]) || network || route || ""} · ${t("alert_stations", stations.length)}`;
}

function measure(alert) {
  if (!alert.station && !alert.property) {
    const names = (alert.evidence?.stations ?? []).map((id) => nameOf(station(id)) || id);
    return [names.join(", "), alert.note].filter(Boolean).join(" · ");
  }
  const meta = alert.property ? property(alert.property) : null;
  const words = [];
  if (stepsOf(alert).length) words.push(t("alert_stations", alert.evidence.stations?.length ?? 0));
  else if (alert.value !== null && alert.value !== undefined) {
    words.push(`${number(alert.value, meta?.precision)} ${alert.unit_label ?? ""}`.trim());
    if (alert.limit !== null && alert.limit !== undefined) words.push(t("alert_limit", number(alert.limit, meta?.precision)));
  } else {
    const heard = station(alert.station)?.heard_ms;
    if (heard) words.push(t("alert_silence", age(now() - heard)));
  }
  if (alert.note) words.push(alert.note);
  return words.join(" · ");
}

function outcome(alert) {
  if (alert.state === "resolved") return t("alert_resolved");
  if (alert.state === "withdrawn") return t("alert_withdrawn");
  if (alert.state !== "acknowledged") return "";
  return `✓ ${alert.who ? t("alert_acked_by", alert.who) : t("alert_acked")}`;
}

function drawAges() {
  for (const card of byId("alerts").children) {
    const alert = store.alerts.get(card.dataset.key);
    if (alert && (alert.value === null || alert.value === undefined)) setText(card.querySelector(".alert-more"), measure(alert));
  }
}

function openForm(id) {
  if (!token()) {
    hooks.needToken(() => openForm(id));
    return;
  }
  const card = cardOf(id);
  if (!card || card.querySelector("form")) return;
  const note = h("input", { type: "text", maxlength: 500, "aria-label": t("alert_note"), placeholder: t("alert_note") });
  const form = h(
    "form",
    { class: "ack-form", onsubmit: (event) => submit(event, id, note.value) },
    note,
    h("button", { class: "primary", type: "submit" }, t("alert_ack")),
    h("button", { type: "button", onclick: () => form.remove() }, t("cancel")),
  );
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    form.remove();
    card.querySelector(".alert-open").focus();
  });
  card.append(form);
  note.focus();
}

async function submit(event, id, note) {
  event.preventDefault();
  const card = cardOf(id);
  card.querySelector(".alert-open").focus();
  event.target.remove();
  sending.add(id);
  draw();
  try {
    await post(`alerts/${encodeURIComponent(id)}/acknowledge`, { note: note.trim() });
    toast(t("alert_done"));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401 || error.status === 403) {
      hooks.needToken(() => openForm(id), t("duty_refused", error[lang()]));
    } else toast(t("alert_failed", error[lang()]), "bad");
    sending.delete(id);
    draw();
    return;
  }
  //  the answer only says that the command is on its way; the card changes when the pass has decided
  setTimeout(() => {
    sending.delete(id);
    draw();
  }, 8000);
}

on("alerts", () => {
  for (const id of sending) if (store.alerts.get(id)?.state !== "open") sending.delete(id);
});
