// The quarantine sheet: what could not be used, with its bytes, the reason, what to do, and the way back.
import { ApiError, get, getOnDuty, post, token } from "./api.js";
import { emptyState, h, skeleton } from "./dom.js";
import { codeName } from "./explainwords.js";
import { bytes, dayTime, hhmmss, integer, nameOf } from "./format.js";
import { lang, t } from "./i18n.js";
import { openDuty } from "./duty.js";
import { openSheet } from "./sheet.js";
import { now, store } from "./store.js";
import { toast } from "./toast.js";

const LIMIT = 200;

/** Open the sheet; `closed()` when it goes away. */
export async function openQuarantine(closed) {
  const body = h("div", { class: "quarantine" }, skeleton(8));
  openSheet(t("quarantine"), [h("p", { class: "hint" }, t("quarantine_text")), body], { kind: "wide", closed });
  await load(body, null);
}

const reasonName = (code) => nameOf(store.catalogue?.reasons?.[code]) || code;

async function load(body, reason) {
  try {
    const answer = await get("quarantine", { limit: LIMIT, reason });
    if (!answer.counts.length) {
      body.replaceChildren(emptyState(t("quarantine_none"), t("quarantine_none_hint")));
      return;
    }
    const detail = h("div", { class: "q-detail" }, emptyState(t("quarantine_choose"), null));
    body.replaceChildren(filters(body, answer, reason), h("div", { class: "q-split" }, table(answer.rows, detail), detail));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const again = h("button", { type: "button", onclick: () => load(body, reason) }, t("retry"));
    body.replaceChildren(emptyState(t("q_load_failed", error[lang()]), null, again));
  }
}

function filters(body, answer, reason) {
  const sums = new Map();
  for (const item of answer.counts) sums.set(item.reason, (sums.get(item.reason) ?? 0) + item.count);
  const chip = (code, label, count) =>
    h("button", { type: "button", class: "chip", "aria-pressed": String(reason === code), onclick: () => load(body, code) }, label, h("i", {}, integer(count)));
  const total = [...sums.values()].reduce((sum, count) => sum + count, 0);
  const chips = [...sums].map(([code, count]) => chip(code, reasonName(code), count));
  const all = reason === null ? null : h("button", { type: "button", onclick: () => redrive(body, { ids: null, reason }, reason) }, t("q_redrive_all", integer(sums.get(reason))));
  return h("div", { class: "q-filters" }, chip(null, t("quarantine_all"), total), chips, all);
}

function table(rows, detail) {
  const names = ["q_received", "q_device", "q_reason", "q_detail", "q_size"];
  const head = h("tr", {}, names.map((name) => h("th", { scope: "col" }, t(name))));
  return h("div", { class: "q-list", tabindex: "0" }, h("table", {}, h("thead", {}, head), h("tbody", {}, rows.map((row) => line(row, detail)))));
}

function line(row, detail) {
  const open = h("button", { type: "button", class: "link", onclick: () => show(row, detail, tr) }, hhmmss(row.received_ms));
  const tr = h(
    "tr",
    { onclick: (event) => event.target !== open && show(row, detail, tr) },
    h("td", {}, open),
    h("td", { class: "clip", title: row.topic }, row.device ?? row.topic ?? "—"),
    h("td", {}, reasonName(row.reason), row.redriven ? h("small", {}, ` · ${t("q_redriven")}`) : null),
    h("td", { class: "clip", title: row.detail }, row.detail ?? ""),
    h("td", { class: "num" }, bytes(row.size)),
  );
  return tr;
}

async function show(row, detail, tr) {
  for (const other of tr.parentElement.children) other.classList.toggle("on", other === tr);
  detail.replaceChildren(skeleton(6));
  try {
    const item = await getOnDuty(`quarantine/${encodeURIComponent(row.id)}`);
    if (!tr.classList.contains("on")) return; //  another row was chosen while this one was on its way
    detail.replaceChildren(...itemView(item, detail));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    detail.replaceChildren(emptyState(t("q_load_failed", error[lang()]), null));
  }
}

function itemView(item, detail) {
  const facts = [
    ["q_reason", reasonName(item.reason)],
    ["q_stage", item.stage && codeName("stage", item.stage)],
    ["q_detail", item.detail],
    ...item.before.map((old) => ["q_before", `${reasonName(old.reason)}: ${old.detail}`]),
    ["q_received", dayTime(item.received_ms, now())],
    ["q_device", item.device],
    ["q_topic", item.topic],
    ["q_size", bytes(item.payload_size ?? item.size)],
  ];
  const body = detail.closest(".quarantine");
  return [
    h("dl", { class: "facts" }, facts.flatMap(([name, value]) => [h("dt", {}, t(name)), h("dd", {}, value ?? "—")])),
    h("h4", {}, t("q_advice")),
    h("p", { class: "advice" }, nameOf(item, "advice") || "—"),
    ...(item.withheld
      ? [h("p", { class: "hint" }, t("q_withheld"))]
      : [
        h("h4", {}, t("q_text")),
        h("pre", { class: "payload", tabindex: "0" }, item.payload_text ?? ""),
        h("h4", {}, t("q_hex")),
        h("pre", { class: "payload hex", tabindex: "0" }, hexDump(item.payload_hex ?? "")),
      ]),
    item.redriven
      ? h("p", { class: "hint" }, `✓ ${t("q_redriven")}`)
      : h("button", { type: "button", class: "primary", onclick: () => redrive(body, { ids: [item.id], reason: null }, null) }, t("q_redrive")),
  ];
}

/** Sixteen bytes a line with their offset. */
function hexDump(hex) {
  const clean = hex.replaceAll(/\s/g, "");
  const lines = [];
  for (let at = 0; at < clean.length; at += 32) {
    const offset = (at / 2).toString(16).padStart(4, "0");
    lines.push(`${offset}  ${clean.slice(at, at + 32).replaceAll(/(..)/g, "$1 ").trimEnd()}`);
  }
  return lines.join("\n");
}

async function redrive(body, what, reason) {
  if (!token()) {
    openDuty(() => openQuarantine(null));
    return;
  }
  try {
    const answer = await post("quarantine/redrive", { ...what, shift_s: 0 });
    toast(t("q_done", integer(answer.count)));
    await load(body, reason);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401 || error.status === 403) openDuty(null, t("duty_refused", error[lang()]));
    else toast(t("q_failed", error[lang()]), "bad");
  }
}
