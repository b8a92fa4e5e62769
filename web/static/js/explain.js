// "Why is it 118?": the steps from the raw bytes to the value, as the service tells them.
import { ApiError, getOnDuty } from "./api.js";
import { emptyState, h, skeleton } from "./dom.js";
import { codeName, FIELDS } from "./explainwords.js";
import { dayTime, flagWords, hasBit, nameOf } from "./format.js";
import { lang, t, word, WORDS } from "./i18n.js";
import { openSheet } from "./sheet.js";
import { now, store } from "./store.js";

let zone = null; //  of the station that is explained

/** Open the explanation of one reading. `title`: the question in words; times are told in `zoneOfStation`. */
export async function openExplain(title, { station, property, channel, time_ms }, zoneOfStation) {
  zone = zoneOfStation;
  const body = h("div", { class: "explain" }, h("p", { class: "hint" }, dayTime(time_ms, now(), zone)), skeleton(6));
  openSheet(title, body, { kind: "middle" });
  try {
    const answer = await getOnDuty("explain", { station, property, channel, time_ms });
    const inside = answer.found && answer.steps.length
      ? h("ol", { class: "steps" }, answer.steps.map(step))
      : emptyState(t("why_none"), t("why_none_hint"));
    body.replaceChildren(body.firstChild, inside);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    body.replaceChildren(emptyState(t("why_failed", error[lang()]), null));
  }
}

function step(item) {
  const key = `step_${item.step}`;
  return h(
    "li",
    { class: "step" },
    h("b", {}, key in WORDS ? t(key) : item.step),
    h("p", {}, nameOf(item)),
    facts(named(item)),
  );
}

/** The step's data. A decoder's times come before the device's zone is applied: they must not be told as the stations'. */
function named({ step: name, data }) {
  if (name !== "decode" || !data) return data;
  const as = ({ time_ms, ...rest }) => ({ ...rest, decoded_ms: time_ms });
  return { ...data, this: data.this && as(data.this), all: data.all?.map(as) };
}

const isEmpty = (value) => value === null || value === undefined || value === "";

/** The step's data as a small table; long text (payloads) as a block. Everything is text from outside. */
function facts(data) {
  const entries = Object.entries(data ?? {}).filter(([, value]) => !isEmpty(value));
  if (!entries.length) return null;
  return h("dl", { class: "facts" }, entries.flatMap(([name, value]) => [h("dt", {}, fieldName(name)), h("dd", {}, fact(name, value))]));
}

/** What a field is called; `title` tells its name in the API. */
const fieldName = (name) => h("span", { title: name }, word(FIELDS[name]) ?? name);

function fact(name, value) {
  if (Array.isArray(value) && value.some((item) => typeof item === "object" && item !== null)) return table(value);
  if (Array.isArray(value)) return value.map((item) => plain(name, item)).join(", ") || "—";
  if (typeof value === "object" && value !== null) return group(value);
  const text = plain(name, value);
  return text.length > 48 || text.includes("\n") ? h("pre", { tabindex: "0" }, text) : text;
}

/** One object inside a field: its parts one after the other, each with its name. */
function group(value) {
  const parts = Object.entries(value).filter(([, part]) => !isEmpty(part));
  if (!parts.length) return "—";
  return h("span", { class: "parts" }, parts.map(([name, part]) => h("span", {}, h("i", {}, fieldName(name)), " ", fact(name, part))));
}

/** Objects of one kind: a row each, a column for each field that any of them has. */
function table(rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row).filter((name) => !isEmpty(row[name]))))];
  const cell = (row, name) => h("td", {}, isEmpty(row[name]) ? "—" : fact(name, row[name]));
  return h(
    "div",
    { class: "facts-table", tabindex: "0" },
    h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, fieldName(name))))), h("tbody", {}, rows.map((row) => h("tr", {}, names.map((name) => cell(row, name)))))),
  );
}

/** A single value in words. */
function plain(name, value) {
  if (typeof value === "boolean") return t(value ? "yes" : "no");
  if (name === "decoded_ms") return new Date(value).toISOString().slice(0, 19).replace("T", " ");
  if (typeof value === "number" && name.endsWith("_ms")) return dayTime(value, now(), zone);
  const { tests, levels } = store.catalogue;
  if (name === "flag") return `${value} ${flagWords(store.catalogue, value, 0)}`;
  if (name === "tests") return Object.keys(tests).filter((bit) => hasBit(value, bit)).map((bit) => nameOf(tests[bit])).join(", ") || t("none");
  if (name === "check") return nameOf(Object.values(tests).find((test) => test.key === value)) || String(value);
  if (name === "level") return value ? `${value} ${nameOf(levels.find((level) => level.n === value))}`.trim() : t("legend_none");
  return codeName(name, value);
}
