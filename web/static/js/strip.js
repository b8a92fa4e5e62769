// The strip at the bottom. Its heart is the ledger as a sum that one can read.
import { byId, h, setAttr, setText } from "./dom.js";
import { hhmmss, integer, isoDay, nameOf } from "./format.js";
import { t } from "./i18n.js";
import { now, on, store } from "./store.js";

const TERMS = ["stored", "duplicate", "quarantined", "ignored", "in_flight"];

export function startStrip() {
  const ledger = byId("ledger");
  const term = (name, sign) => h("span", { id: `led-${name}-box` }, ` ${sign} `, h("b", { id: `led-${name}` }), " ", h("i", { id: `led-${name}-name` }));
  ledger.replaceChildren(
    h("i", { id: "led-title" }),
    term("received", ""),
    ...TERMS.map((name, index) => term(name, index === 0 ? "=" : "+")),
    h("em", { id: "led-verdict" }),
  );
  on("status lang link", draw);
  on("tick", drawClock);
  drawClock();
}

function draw() {
  const { status, link } = store;
  if (!status) return;
  const state = link.state === "offline" ? "offline" : status.state;
  const dot = byId("state");
  dot.dataset.state = state;
  setText(dot, `● ${t(`status_${state}`)}`);
  setAttr(dot, "title", status.problems.map((problem) => nameOf(problem)).join("\n") || null);
  const problem = byId("problem");
  problem.hidden = !status.problems.length;
  setText(problem, status.problems.map((item) => nameOf(item)).join(" · "));
  setText(byId("rate"), t("status_rate", rate(status.rate_per_s)));
  setText(byId("p99"), t("status_p99", status.latency_p99_ms === null ? "—" : `${integer(status.latency_p99_ms)} ms`));
  setText(byId("quarantine"), t("quarantine_n", integer(status.quarantined)));
  setText(byId("broker"), nameOf(status.broker));
  setAttr(byId("broker"), "title", `${t("broker")}: ${nameOf(status.broker)}\n${t("version")} ${status.version} · ${status.catalogue}`);
  byId("demo").hidden = !status.demonstration;
  drawLedger(status.ledger);
}

const rate = (value) => (value >= 100 ? integer(value) : (value ?? 0).toFixed(1));

function drawLedger(sum) {
  setText(byId("led-title"), t("ledger"));
  setAttr(byId("ledger"), "title", t("ledger_hint"));
  for (const name of ["received", ...TERMS]) {
    setText(byId(`led-${name}`), integer(sum[name]));
    setText(byId(`led-${name}-name`), t(`led_${name}`));
  }
  byId("led-ignored-box").hidden = !(sum.ignored > 0);
  const verdict = byId("led-verdict");
  verdict.dataset.balanced = String(sum.balanced);
  setText(verdict, t(sum.balanced ? "led_balanced" : "led_wrong"));
}

function drawClock() {
  const clock = byId("clock");
  setText(clock, `${isoDay(now())} ${hhmmss(now())}`);
}
