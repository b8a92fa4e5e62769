// The 24 h chart: one accent line, limits dashed with their names, flagged readings hollow outside the line.
import uPlot from "../vendor/uplot/uPlot.esm.js";
import { frameOf, isFlagged, lineOf } from "./chartdata.js";
import { besideLine, besideRing, curveBoxes, makeRoom } from "./chartlabels.js";
import { h, setText } from "./dom.js";
import { dayTime, flagWords, hhmm, isoDay, nameOf, number } from "./format.js";
import { t } from "./i18n.js";
import { now, store } from "./store.js";
import { palette } from "./theme.js";

const HEIGHT = 190;
const FONT = '11px "Noto Sans SC","Noto Sans CJK SC",system-ui,sans-serif';
const WINDOW_S = 86400;

/**
 * Draw `series` into `box`. `intervalS`: the station's interval in seconds; `zone`: its time zone; `onPin(index)`: a point was clicked.
 * Returns {update(series), destroy()}.
 */
export function drawChart(box, series, { intervalS, precision, zone, onPin }) {
  const state = { series, line: lineOf(series, intervalS), colours: palette(), precision, zone };
  const tip = h("div", { class: "chart-tip", hidden: true });
  const width = () => Math.max(box.clientWidth, 200);
  box.replaceChildren();
  const plot = new uPlot(options(state, width(), tip, box), [state.line.x, state.line.y], box);
  plot.over.append(tip);
  plot.over.addEventListener("click", () => pin(state, plot, onPin));
  plot.over.addEventListener("mouseleave", () => (tip.hidden = true));
  const onKey = (event) => stepKey(event, state, plot, onPin);
  box.addEventListener("keydown", onKey);
  const watcher = new ResizeObserver(() => plot.setSize({ width: width(), height: HEIGHT }));
  watcher.observe(box);
  return {
    update(next) {
      state.series = next;
      state.line = lineOf(next, intervalS);
      plot.setData([state.line.x, state.line.y]);
    },
    destroy() {
      watcher.disconnect();
      box.removeEventListener("keydown", onKey);
      plot.destroy();
    },
  };
}

function options(state, width, tip, box) {
  const { colours } = state;
  const axis = { stroke: colours.muted, font: FONT, ticks: { show: false } };
  return {
    width,
    height: HEIGHT,
    padding: [10, 8, 0, 0],
    legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), state.zone),
    cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
    scales: {
      x: { time: true, range: () => [now() / 1000 - WINDOW_S, now() / 1000] },
      y: { range: () => frameOf(state.line.y, state.series.limits ?? []) },
    },
    axes: [
      { ...axis, grid: { show: false }, space: 62, size: 26, values: (_, splits) => splits.map((seconds) => hourName(seconds, state.zone)) },
      { ...axis, grid: { stroke: colours.line, width: 1 }, space: 34, size: 46, values: (_, splits) => tickNames(splits) },
    ],
    series: [
      {},
      { stroke: colours.accent, width: 1.7, points: { show: false }, spanGaps: false },
    ],
    hooks: {
      drawAxes: [(plot) => drawLimits(plot, state)],
      draw: [(plot) => drawMarks(plot, state)],
      setCursor: [(plot) => showTip(plot, state, tip, box)],
    },
  };
}

function hourName(seconds, zone) {
  const clock = hhmm(seconds * 1000, zone);
  return clock === "00:00" ? isoDay(seconds * 1000, zone).slice(5) : clock;
}

function tickNames(splits) {
  const step = splits.length > 1 ? splits[1] - splits[0] : 1;
  const digits = Math.min(4, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  return splits.map((value) => number(value, digits));
}

function levelColour(colours, level) {
  return colours[`l${level}`] ?? colours.l3;
}

/** What is beyond a limit is tinted, the limit itself dashed; its name is written after the curve, where there is room. */
function drawLimits(plot, { series, colours }) {
  const pen = plot.ctx;
  const { left, top, width, height } = plot.bbox;
  const ratio = devicePixelRatio;
  for (const { limit, y } of limitsInside(plot, series)) {
    const tone = levelColour(colours, limit.level);
    const below = limit.direction === "below";
    pen.save();
    pen.fillStyle = tone;
    pen.globalAlpha = 0.07;
    pen.fillRect(left, below ? y : top, width, below ? top + height - y : y - top);
    pen.globalAlpha = 1;
    pen.strokeStyle = tone;
    pen.lineWidth = 1.2 * ratio;
    pen.setLineDash([4 * ratio, 3 * ratio]);
    pen.beginPath();
    pen.moveTo(left, y);
    pen.lineTo(left + width, y);
    pen.stroke();
    pen.restore();
  }
}

function limitsInside(plot, series) {
  const { top, height } = plot.bbox;
  const all = (series.limits ?? []).map((limit) => ({ limit, y: plot.valToPos(limit.value, "y", true) }));
  return all.filter(({ y }) => y >= top && y <= top + height);
}

/** Rings of flagged readings first, then the words: they keep off the curve, the rings and each other. */
function drawMarks(plot, state) {
  const ratio = devicePixelRatio;
  const { left, top, width, height } = plot.bbox;
  const frame = { left: left + 3 * ratio, right: left + width - 3 * ratio, top, bottom: top + height };
  const { x, y } = state.line;
  const drawn = x.map((at, index) => (Number.isFinite(y[index]) ? [plot.valToPos(at, "x", true), plot.valToPos(y[index], "y", true)] : y[index]));
  const room = makeRoom(frame, curveBoxes(drawn.filter((point) => point !== undefined), 1.5 * ratio));
  const rings = ringsInside(plot, state.series);
  const pen = plot.ctx;
  pen.save();
  for (const ring of rings) {
    drawRing(pen, ring, state.colours, ratio);
    room.take({ left: ring.x - 6 * ratio, right: ring.x + 6 * ratio, top: ring.y - 6 * ratio, bottom: ring.y + 6 * ratio });
  }
  pen.font = FONT.replace("11px", `${11 * ratio}px`);
  const high = 14 * ratio;
  for (const { limit, y: at } of limitsInside(plot, state.series)) {
    const words = nameOf(limit, "name");
    const boxes = besideLine(frame, at, pen.measureText(words).width, high);
    write(pen, words, room.place(boxes), state.colours.ink, state.colours, ratio);
  }
  for (const ring of rings) {
    const words = `${ring.flag} ${flagWords(store.catalogue, ring.flag, ring.tests)}`;
    const boxes = besideRing(ring.x, ring.y, 8 * ratio, pen.measureText(words).width, high);
    write(pen, words, room.place(boxes), state.colours.muted, state.colours, ratio);
  }
  pen.restore();
}

/** Words in their box, haloed against the grid. Without room they are left out: the pointer and the note tell them too. */
function write(pen, words, box, ink, colours, ratio) {
  if (!box) return;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  pen.lineWidth = 3 * ratio;
  pen.strokeStyle = colours.surface;
  pen.strokeText(words, box.left, (box.top + box.bottom) / 2);
  pen.fillStyle = ink;
  pen.fillText(words, box.left, (box.top + box.bottom) / 2);
}

/** Flagged readings at their place; what lies beyond the frame stands at its edge (`beyond`: -1 above, 1 below). */
function ringsInside(plot, series) {
  const { left, top, width, height } = plot.bbox;
  const inset = 7 * devicePixelRatio;
  const rings = [];
  series.times_ms.forEach((ms, index) => {
    const flag = series.flags[index];
    if (!isFlagged(flag) || !Number.isFinite(series.values[index])) return;
    const x = plot.valToPos(ms / 1000, "x", true);
    if (x < left || x > left + width) return;
    const raw = plot.valToPos(series.values[index], "y", true);
    const y = Math.min(Math.max(raw, top + inset), top + height - inset);
    rings.push({ x, y, beyond: Math.sign(raw - y), flag, tests: series.tests[index] });
  });
  return rings;
}

function drawRing(pen, { x, y, beyond, flag }, colours, ratio) {
  pen.beginPath();
  pen.arc(x, y, 4 * ratio, 0, 2 * Math.PI);
  pen.fillStyle = colours.surface;
  pen.fill();
  pen.lineWidth = 1.7 * ratio;
  pen.strokeStyle = flag === 4 ? colours.bad : colours.warn;
  pen.stroke();
  if (beyond) arrow(pen, x, y, beyond, ratio);
}

function arrow(pen, x, y, way, ratio) {
  pen.beginPath();
  pen.moveTo(x - 2.4 * ratio, y + way * -0.6 * ratio);
  pen.lineTo(x, y + way * 2 * ratio);
  pen.lineTo(x + 2.4 * ratio, y + way * -0.6 * ratio);
  pen.lineWidth = 1.2 * ratio;
  pen.stroke();
}

function pointAt(plot, state) {
  const at = plot.cursor.idx;
  return at === null || at === undefined ? -1 : (state.line.source[at] ?? -1);
}

function pin(state, plot, onPin) {
  const index = pointAt(plot, state);
  if (index >= 0) onPin(index);
}

function stepKey(event, state, plot, onPin) {
  if (event.key === "Enter") pin(state, plot, onPin);
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  event.preventDefault();
  event.stopPropagation();
  const step = event.key === "ArrowLeft" ? -1 : 1;
  const last = state.line.x.length - 1;
  let at = plot.cursor.idx ?? last;
  do at += step;
  while (at > 0 && at < last && state.line.source[at] < 0);
  at = Math.min(Math.max(at, 0), last);
  plot.setCursor({ left: plot.valToPos(state.line.x[at], "x"), top: 20 });
}

function showTip(plot, state, tip, box) {
  const index = plot.cursor.left >= 0 ? pointAt(plot, state) : -1;
  tip.hidden = index < 0;
  if (index < 0) return;
  const { series } = state;
  const flag = series.flags[index];
  const value = `${number(series.values[index], state.precision)} ${series.unit_label ?? ""}`.trim();
  const lines = [
    dayTime(series.times_ms[index], now(), state.zone),
    value,
    `${flag} ${flagWords(store.catalogue, flag, series.tests[index])}`,
    series.known_ms?.[index] ? `${t("chart_received")} ${dayTime(series.known_ms[index], now(), state.zone)}` : null,
    series.revisions?.[index] ? `${t("chart_revision")} ${series.revisions[index]}` : null,
  ].filter(Boolean);
  while (tip.childElementCount < lines.length) tip.append(h("span"));
  while (tip.childElementCount > lines.length) tip.lastElementChild.remove();
  lines.forEach((line, at) => setText(tip.children[at], line));
  const right = plot.cursor.left > plot.over.clientWidth / 2;
  tip.style.left = right ? "auto" : `${plot.cursor.left + 10}px`;
  tip.style.right = right ? `${plot.over.clientWidth - plot.cursor.left + 10}px` : "auto";
  box.setAttribute("aria-label", lines.join(", "));
}
