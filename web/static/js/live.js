// The live link: applies /api/stream to the store, notices when it breaks, and loads anew when it is back.
import { apiUrl, get, rowsToObjects } from "./api.js";
import { emit, now, seriesKey, store } from "./store.js";

const STALE_MS = 15000; //  status comes every 2 s, so a silent open stream this long is a dead one
const RETRY_MS = 3000;
const STATIONS_MS = 30000;

let source = null;
let heardAt = 0;
let stationsTimer = 0;
let overtaking = null; //  alerts that the stream brings while a list of all alerts is on its way

/** First load. Throws ApiError when the service cannot give the catalogue or the stations. */
export async function loadAll() {
  const [catalogue, stations, latest, , status] = await Promise.all([
    get("catalogue"),
    get("stations"),
    get("latest"),
    loadAlerts(),
    get("status"),
  ]);
  store.catalogue = catalogue;
  takeStations(stations);
  takeLatest(latest);
  store.status = status;
  emit("catalogue");
  emit("stations");
  emit("latest", null);
  emit("alerts");
  emit("status");
}

export function connect() {
  source?.close();
  source = new EventSource(apiUrl("stream"));
  heardAt = Date.now();
  const listen = (name, take) =>
    source.addEventListener(name, (event) => {
      heardAt = Date.now();
      take(JSON.parse(event.data));
    });
  listen("hello", onHello);
  listen("readings", onReadings);
  listen("alerts", onAlerts);
  listen("status", (status) => {
    store.status = status;
    emit("status");
  });
  listen("figures", (figures) => emit("figures", figures.rows));
  source.addEventListener("error", onBroken);
}

/** Watch for a link that is open but says nothing, and fetch what the stream does not carry (station states). */
export function watch() {
  setInterval(() => {
    if (store.link.state === "live" && Date.now() - heardAt > STALE_MS) onBroken();
    if (store.link.state === "live" && Date.now() - stationsTimer > STATIONS_MS) refreshStations();
  }, 1000);
}

async function onHello(hello) {
  store.skew_ms = hello.now_ms - Date.now();
  const wasOffline = store.link.state === "offline";
  const changed = hello.catalogue !== store.catalogue?.version;
  try {
    if (changed) await loadAll();
    else await reload(); //  whatever came between the first load and this moment
  } catch {
    onBroken(); //  it answered and went away again: stay offline and try once more
    return;
  }
  store.link = { state: "live", since_ms: now() };
  emit("link", { recovered: wasOffline });
}

function onBroken() {
  source?.close();
  source = null;
  if (store.link.state !== "offline") {
    store.link = { state: "offline", since_ms: now() };
    emit("link", { recovered: false });
  }
  setTimeout(() => source === null && connect(), RETRY_MS);
}

async function reload() {
  const [stations, latest] = await Promise.all([
    get("stations"),
    get("latest"),
    loadAlerts(),
  ]);
  takeStations(stations);
  takeLatest(latest);
  emit("stations");
  emit("latest", null);
  emit("alerts");
}

async function refreshStations() {
  stationsTimer = Date.now();
  try {
    takeStations(await get("stations"));
    emit("stations");
  } catch {
    //  the stream's own watch tells the operator; nothing on the page has become wrong
  }
}

function onReadings(batch) {
  store.skew_ms = batch.now_ms - Date.now();
  const touched = new Set();
  const fresh = [];
  for (const row of rowsToObjects(batch)) {
    const place = store.stations.get(row.station);
    if (place) place.heard_ms = Math.max(place.heard_ms ?? 0, batch.now_ms);
    fresh.push(row);
    if (row.late) continue;
    const key = seriesKey(row.station, row.property, row.channel);
    const old = store.latest.get(key);
    if (old && old.time_ms > row.time_ms) continue;
    store.latest.set(key, { time_ms: row.time_ms, value: row.value, flag: row.flag, tests: row.tests });
    touched.add(key);
    if (place?.headline?.property === row.property && row.channel === "main") {
      Object.assign(place.headline, { value: row.value, flag: row.flag, time_ms: row.time_ms });
    }
  }
  emit("readings", fresh);
  if (touched.size) emit("latest", touched);
}

function onAlerts(batch) {
  takeAlerts(batch.alerts);
  overtaking?.push(...batch.alerts);
  emit("alerts");
  markStations();
  stationsTimer = Math.min(stationsTimer, Date.now() - STATIONS_MS + 2000); //  silence changes states: look soon
}

/** Alert levels on the map follow the alerts at once, without waiting for the next list of stations. */
function markStations() {
  const marks = new Map();
  for (const alert of store.alerts.values()) {
    if (alert.state !== "open" && alert.state !== "acknowledged") continue;
    const mark = marks.get(alert.station) ?? { level: 0, open: false };
    mark.level = Math.max(mark.level, alert.level);
    mark.open ||= alert.state === "open";
    marks.set(alert.station, mark);
  }
  for (const place of store.stations.values()) {
    const mark = marks.get(place.id) ?? { level: 0, open: false };
    place.alert_level = mark.level;
    place.unacknowledged = mark.open;
  }
  emit("stations");
}

function takeStations(collection) {
  stationsTimer = Date.now();
  store.stations = new Map(
    collection.features.map((feature) => {
      const [lon, lat] = feature.geometry.coordinates;
      return [feature.properties.id ?? feature.id, { ...feature.properties, lon, lat }];
    }),
  );
}

function takeLatest(answer) {
  store.skew_ms = answer.now_ms - Date.now();
  const latest = new Map();
  for (const { station, property, channel, ...reading } of rowsToObjects(answer)) {
    const key = seriesKey(station, property, channel);
    const live = store.latest.get(key); //  the stream may have been faster than this answer
    latest.set(key, live && live.time_ms > reading.time_ms ? live : reading);
  }
  store.latest = latest;
}

/** The list of all alerts replaces ours, but for what the stream told while the list was on its way. */
async function loadAlerts() {
  const newer = [];
  overtaking = newer;
  try {
    const { alerts } = await get("alerts", { state: "active", limit: 500 });
    store.alerts = new Map(alerts.map((alert) => [alert.id, alert]));
    takeAlerts(newer.filter((alert) => !(store.alerts.get(alert.id)?.changed_ms > alert.changed_ms)));
  } finally {
    if (overtaking === newer) overtaking = null;
  }
}

function takeAlerts(alerts) {
  for (const alert of alerts) store.alerts.set(alert.id, alert);
}
