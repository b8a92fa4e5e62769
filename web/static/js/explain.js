// "Why is it 118?": the steps from the raw bytes to the value, as the service tells them.
import { ApiError, get } from "./api.js";
import { emptyState, h, skeleton } from "./dom.js";
import { dayTime, nameOf } from "./format.js";
import { lang, t, WORDS } from "./i18n.js";
import { openSheet } from "./sheet.js";
import { now } from "./store.js";

/** Open the explanation of one reading. `title`: the question in words. */
export async function openExplain(title, { station, property, channel, time_ms }) {
  const body = h("div", { class: "explain" }, h("p", { class: "hint" }, dayTime(time_ms, now())), skeleton(6));
  openSheet(title, body, { kind: "middle" });
  try {
    const answer = await get("explain", { station, property, channel, time_ms });
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
    facts(item.data),
  );
}

/** The step's data as a small table; long text (payloads) as a block. Everything is text from outside. */
function facts(data) {
  const entries = Object.entries(data ?? {}).filter(([, value]) => value !== null && value !== "");
  if (!entries.length) return null;
  return h("dl", { class: "facts" }, entries.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, fact(name, value))]));
}

function fact(name, value) {
  if (typeof value === "number" && name.endsWith("_ms")) return dayTime(value, now());
  if (typeof value !== "object") {
    const text = String(value);
    return text.length > 48 || text.includes("\n") ? h("pre", { tabindex: "0" }, text) : text;
  }
  if (Array.isArray(value) && value.every((item) => typeof item !== "object")) return value.join(", ") || "—";
  return h("pre", { tabindex: "0" }, JSON.stringify(value, null, 1));
}
