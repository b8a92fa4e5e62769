// Small lines of the last three hours beside each reading; fetched one after the other, so that they never crowd
// out what the operator asked for.
import { ApiError, get } from "./api.js";
import { lineOf } from "./chartdata.js";
import { svg } from "./dom.js";
import { now } from "./store.js";

const SPAN_MS = 3 * 3600_000;
const WIDTH = 60;
const HEIGHT = 18;

/** An empty line; fill it with `fillSparks`. */
export function spark() {
  return svg("svg", { class: "spark", width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" }, svg("path"));
}

/** `rows`: [{station, property, channel, element}]; stops when `signal` aborts. */
export async function fillSparks(rows, intervalS, signal) {
  for (const row of rows) {
    const to = Math.round(now());
    try {
      const query = { station: row.station, property: row.property, channel: row.channel, from_ms: to - SPAN_MS, to_ms: to };
      const series = await get("series", query, signal);
      row.element.firstChild.setAttribute("d", path(series, intervalS, to));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error; //  a missing little line is no news; the chart tells of failures
    }
  }
}

function path(series, intervalS, to) {
  const { x, y } = lineOf(series, intervalS);
  const good = y.filter(Number.isFinite);
  if (good.length < 2) return "";
  const low = Math.min(...good);
  const span = Math.max(...good) - low || 1;
  let text = "";
  let move = true;
  y.forEach((value, index) => {
    if (value === null) move = true;
    if (!Number.isFinite(value)) return;
    const px = WIDTH * (1 - (to / 1000 - x[index]) / (SPAN_MS / 1000));
    const py = HEIGHT - 2 - ((value - low) / span) * (HEIGHT - 4);
    text += `${move ? "M" : "L"}${px.toFixed(1)} ${py.toFixed(1)}`;
    move = false;
  });
  return text;
}
