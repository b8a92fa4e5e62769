// Numbers, times and ages as an operator reads them. Times are told in the city's zone, those of one station in
// the station's, never in the browser's.
import { lang, t } from "./i18n.js";

export const ZONE = "Asia/Shanghai";

const cache = new Map();
function clockFormat(timeZone, options) {
  const key = JSON.stringify([timeZone, options]);
  if (!cache.has(key)) cache.set(key, new Intl.DateTimeFormat("en-GB", { timeZone, hourCycle: "h23", ...options }));
  return cache.get(key);
}

/** The zone of a station; the city's when this browser does not know it. */
export function zoneOf(place) {
  try {
    clockFormat(place.timezone, {});
    return place.timezone;
  } catch {
    return ZONE;
  }
}

export const hhmm = (ms, zone = ZONE) => clockFormat(zone, { hour: "2-digit", minute: "2-digit" }).format(ms);

export const hhmmss = (ms, zone = ZONE) =>
  clockFormat(zone, { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(ms);

export const isoDay = (ms, zone = ZONE) =>
  clockFormat(zone, { year: "numeric", month: "2-digit", day: "2-digit" }).format(ms).split("/").reverse().join("-");

/** Day and clock, for what may be older than today. */
export function dayTime(ms, nowMs, zone = ZONE) {
  const day = isoDay(ms, zone);
  return day === isoDay(nowMs, zone) ? hhmmss(ms, zone) : `${day.slice(5)} ${hhmmss(ms, zone)}`;
}

export function number(value, precision = 1) {
  if (value === null || value === undefined) return "—";
  if (!Number.isFinite(value)) return String(value);
  return value.toLocaleString("en-US", { minimumFractionDigits: precision, maximumFractionDigits: precision });
}

export const integer = (value) => (value ?? 0).toLocaleString("en-US", { maximumFractionDigits: 0 });

/** At most four characters, for a mark on the map. */
export function short(value, precision = 1) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "—";
  const digits = Math.abs(value) >= 100 ? 0 : Math.min(precision, Math.abs(value) >= 10 ? 0 : 1);
  return value.toFixed(digits);
}

export function age(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60) % 60} min`;
  return `${Math.round(seconds / 86400)} d`;
}

/** 0 fresh, 1 older than three intervals, 2 older than twelve. */
export function ageClass(ms, intervalS) {
  const intervals = ms / 1000 / Math.max(intervalS || 60, 10);
  return intervals > 12 ? 2 : intervals > 3 ? 1 : 0;
}

export const bytes = (n) => (n < 2048 ? `${integer(n)} B` : `${(n / 1024).toFixed(1)} KiB`);

/** The name in the chosen language; what is missing there is taken from the other. */
export function nameOf(item, stem = "") {
  if (!item) return "";
  const own = stem ? `${stem}_${lang()}` : lang();
  const other = lang() === "zh" ? "en" : "zh";
  return item[own] || item[stem ? `${stem}_${other}` : other] || "";
}

/** The other language's name, when it differs. */
export function otherName(item) {
  const other = item[lang() === "zh" ? "en" : "zh"];
  return other && other !== nameOf(item) ? other : "";
}

/** Is this bit set? The set has up to 32, so no bitwise operators of signed numbers. */
export const hasBit = (set, bit) => Math.floor((set ?? 0) / 2 ** Number(bit)) % 2 === 1;

/** "Suspect · rate of change": the words of a flag, and of the tests that did not pass or marks that are set. */
export function flagWords(catalogue, flag, tests) {
  const words = [nameOf(catalogue?.flags?.[flag]) || t("flag_n", flag)];
  for (const [bit, test] of Object.entries(catalogue?.tests ?? {})) {
    if (flag !== 9 && hasBit(tests, bit)) words.push(nameOf(test));
  }
  return words.join(" · ");
}
