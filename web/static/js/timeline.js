// What led to an incident: the steps of its alerts, as the evidence of the situation tells them.
import { h, setText } from "./dom.js";
import { codeName } from "./explainwords.js";
import { hhmm, nameOf, number } from "./format.js";
import { lang, t } from "./i18n.js";
import { property, station, store } from "./store.js";

/** The steps of an alert, none of one that is no situation. */
export const stepsOf = (alert) => (Array.isArray(alert.evidence?.timeline) ? alert.evidence.timeline : []);

/** Show the timeline in its card, or take it away. */
export function drawTimeline(card, alert, unfolded) {
  const steps = unfolded ? stepsOf(alert) : [];
  const old = card.querySelector(".timeline");
  if (!steps.length) {
    old?.remove();
    return;
  }
  const list = old ?? card.appendChild(h("ol", { class: "timeline" }));
  list.setAttribute("aria-label", t("alert_timeline"));
  const mark = JSON.stringify([lang(), steps]);
  if (list.dataset.shown === mark) return; //  what is being read is not laid out anew
  list.dataset.shown = mark;
  list.replaceChildren(...steps.map(line));
  const left = alert.evidence.left_out;
  if (left) list.append(h("li", { class: "hint" }, t("alert_left_out", left)));
}

function line(step) {
  const meta = step.property ? property(step.property) : null;
  const level = store.catalogue.levels.find((one) => one.n === step.level);
  const value = step.value === null || step.value === undefined ? "" : number(step.value, meta?.precision);
  const what = [nameOf(meta) || step.rule, value && `${value} ${meta?.unit_label ?? ""}`.trim()];
  what.push([codeName("state", step.state), step.level ? nameOf(level) : ""].filter(Boolean).join(" "));
  const time = h("time", { datetime: new Date(step.time_us / 1000).toISOString() });
  setText(time, hhmm(step.time_us / 1000));
  return h("li", {}, time, h("b", {}, nameOf(station(step.station)) || step.station), h("span", {}, what.filter(Boolean).join(" · ")));
}
