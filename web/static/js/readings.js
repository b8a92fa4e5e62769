// The table of a station's latest readings: value with unit, quality in words, age, a small line.
import { h, reconcile, setAttr, setText } from "./dom.js";
import { age, ageClass, flagWords, nameOf, number, otherName } from "./format.js";
import { t } from "./i18n.js";
import { spark } from "./spark.js";
import { now, property, store } from "./store.js";

/** An empty table body; fill it with `drawReadings`. */
export function readingsTable() {
  const heads = ["reading_property", "reading_value", "reading_trend", "reading_flag_age"];
  const row = h("tr", {}, heads.map((name) => h("th", { scope: "col" }, t(name))));
  return h("table", { class: "readings" }, h("thead", { class: "sr" }, row), h("tbody"));
}

/** `series`: store.seriesOf(id); `chosen`: the property on the chart; `choose(item)` when a row is clicked. */
export function drawReadings(body, series, { chosen, intervalS, choose }) {
  reconcile(body, series, {
    key: (item) => item.key,
    make: (item) => make(item, choose),
    update: (row, item) => update(row, item, chosen, intervalS),
  });
}

/** Only what time changes: ages and how grey a value is. */
export function drawReadingAges(body, series, intervalS) {
  const rows = new Map([...body.children].map((row) => [row.dataset.key, row]));
  for (const item of series) {
    const row = rows.get(item.key);
    if (row) setAge(row, item, intervalS);
  }
}

function make(item, choose) {
  const button = h("button", { type: "button", class: "prop" }, h("b"), h("span"));
  return h(
    "tr",
    { onclick: () => choose(item), "data-property": item.property },
    h("td", {}, button),
    h("td", { class: "v" }, h("b"), h("i")),
    h("td", { class: "sp" }, spark()),
    h("td", { class: "fl" }, flagBadge(), h("span", { class: "age" })),
  );
}

/** The square with the flag's number and its words. */
export const flagBadge = () => h("span", { class: "flag" }, h("em"), h("span"));

export function setFlag(badge, flag, tests) {
  badge.dataset.flag = flag;
  setText(badge.firstChild, flag);
  setText(badge.lastChild, flagWords(store.catalogue, flag, tests));
}

function update(row, item, chosen, intervalS) {
  const meta = property(item.property);
  row.classList.toggle("on", item.property === chosen.property && item.channel === chosen.channel);
  const button = row.querySelector(".prop");
  setText(button.firstChild, nameOf(meta) || item.property);
  setText(button.lastChild, [meta ? otherName(meta) : "", item.channel === "main" ? "" : item.channel].filter(Boolean).join(" · "));
  setAttr(button, "aria-pressed", String(row.classList.contains("on")));
  const value = row.querySelector(".v");
  const text = number(item.value, meta?.precision);
  if (value.dataset.seen !== undefined && value.firstChild.textContent !== text) flash(value);
  value.dataset.seen = "";
  setText(value.firstChild, text);
  setText(value.lastChild, meta?.unit_label ?? "");
  setFlag(row.querySelector(".flag"), item.flag, item.tests);
  setAge(row, item, intervalS);
}

function setAge(row, item, intervalS) {
  const old = now() - item.time_ms;
  setText(row.querySelector(".age"), age(old));
  setAttr(row, "data-old", ageClass(old, intervalS));
}

function flash(element) {
  element.classList.remove("flash");
  void element.offsetWidth; //  restarts the animation
  element.classList.add("flash");
}
