// The live link: applies /api/stream to the store, notices when it breaks, and loads anew when it is back.
import { apiUrl, get } from "./api.js";
import { hearAlerts, hearReadings, hearStations, MOST_ALERTS, takeAlerts, takeLatest, takeStations, withTold } from "./merge.js";
import { emit, now, store } from "./store.js";

const STALE_MS = 15000; //  status comes every 2 s, so a silent open stream this long is a dead one
const RETRY_MS = 3000;
const STATIONS_MS = 30000;

let source = null;
let heardAt = 0;
let stationsTimer = 0;

const questions = () => [get("alerts", { state: "active", limit: MOST_ALERTS }), get("latest"), get("stations")];

function take([alerts, latest, stations], told) {
  stationsTimer = Date.now();
  takeAlerts(alerts, told);
  takeLatest(latest, told);
  takeStations(stations, told);
}

/** First load. Throws ApiError when the service cannot give the catalogue or the stations. */
export async function loadAll() {
  const asked = Promise.all([get("catalogue"), get("status"), ...questions()]);
  const [[catalogue, status, ...answers], told] = await withTold(asked);
  store.catalogue = catalogue;
  store.status = status;
  take(answers, told);
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
  listen("stations", onStations);
  listen("status", (status) => {
    store.status = status;
    emit("status");
  });
  listen("figures", (figures) => emit("figures", figures.rows));
  source.addEventListener("error", onBroken);
}

/**
 * Watch for a link that is open but says nothing. The stream tells of stations whose state or alert changes; all are
 * fetched now and then for what is not told: since when and by what a state that stays, and events that were heard.
 */
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
  const [answers, told] = await withTold(Promise.all(questions()));
  take(answers, told);
  emit("stations");
  emit("latest", null);
  emit("alerts");
}

async function refreshStations() {
  stationsTimer = Date.now();
  try {
    const [stations, told] = await withTold(get("stations"));
    takeStations(stations, told);
    emit("stations");
  } catch {
    //  the stream's own watch tells the operator; nothing on the page has become wrong
  }
}

function onReadings(batch) {
  const [rows, touched] = hearReadings(batch);
  emit("readings", rows);
  if (touched.size) emit("latest", touched);
}

function onAlerts(batch) {
  hearAlerts(batch.alerts);
  emit("alerts");
  emit("stations");
}

function onStations(told) {
  hearStations(told.stations);
  emit("stations");
}
