// How answers of the service and what the stream tells come together in the store. An answer is as old as the moment at
// which it was made; what the stream told while it was on its way is not older, and stays. No drawing, no network here.
import { rowsToObjects } from "./api.js";
import { seriesKey, store } from "./store.js";

/** Most alerts that the service gives in one answer. */
export const MOST_ALERTS = 10_000;

const underWay = new Set(); //  one for each question that is on its way: what the stream has told since it was asked

/** Wait for `answers`; gives [the answers, what the stream told meanwhile]. */
export async function withTold(answers) {
  const told = { latest: new Map(), heard: new Map(), stations: new Map(), alerts: new Map() };
  underWay.add(told);
  try {
    return [await answers, told];
  } finally {
    underWay.delete(told);
  }
}

// ------------------------------------------------------------------------------------------------------ from answers

export function takeStations(collection, told) {
  store.stations = new Map(
    collection.features.map((feature) => {
      const [lon, lat] = feature.geometry.coordinates;
      const id = feature.properties.id ?? feature.id;
      const place = { ...feature.properties, ...told.stations.get(id), lon, lat };
      const heard = told.heard.get(id);
      if (heard) place.heard_ms = Math.max(place.heard_ms ?? 0, heard);
      return [id, place];
    }),
  );
  follow(store.stations.values());
}

export function takeLatest(answer, told) {
  store.skew_ms = answer.now_ms - Date.now();
  const latest = new Map();
  for (const { station, property, channel, ...reading } of rowsToObjects(answer)) {
    latest.set(seriesKey(station, property, channel), reading);
  }
  //  of the same time, too: it may be a newer revision, and a still newer one is told next
  for (const [key, reading] of told.latest) {
    if (!(latest.get(key)?.time_ms > reading.time_ms)) latest.set(key, reading);
  }
  store.latest = latest;
}

/** The list of all alerts replaces ours, but for what the stream told while the list was on its way. */
export function takeAlerts({ alerts }, told) {
  store.alertsCut = alerts.length >= MOST_ALERTS;
  store.alerts = new Map(alerts.map((alert) => [alert.id, alert]));
  for (const [id, alert] of told.alerts) {
    if (!(store.alerts.get(id)?.changed_ms > alert.changed_ms)) store.alerts.set(id, alert);
  }
}

// ---------------------------------------------------------------------------------------------------- from the stream

/** Take readings up; gives [all rows, keys of the series whose latest changed]. */
export function hearReadings(batch) {
  store.skew_ms = batch.now_ms - Date.now();
  const rows = rowsToObjects(batch);
  const touched = new Set();
  const places = new Set();
  for (const row of rows) {
    const place = store.stations.get(row.station);
    if (place) place.heard_ms = Math.max(place.heard_ms ?? 0, batch.now_ms);
    for (const told of underWay) told.heard.set(row.station, batch.now_ms);
    if (row.late) continue;
    const key = seriesKey(row.station, row.property, row.channel);
    if (store.latest.get(key)?.time_ms > row.time_ms) continue;
    const reading = { time_ms: row.time_ms, value: row.value, flag: row.flag, tests: row.tests };
    store.latest.set(key, reading);
    for (const told of underWay) told.latest.set(key, reading);
    touched.add(key);
    if (place) places.add(place);
  }
  for (const place of places) showLatest(place);
  return [rows, touched];
}

export function hearAlerts(alerts) {
  for (const alert of alerts) {
    store.alerts.set(alert.id, alert);
    for (const told of underWay) told.alerts.set(alert.id, alert);
  }
  follow(store.stations.values());
}

/** Take up stations whose state or alert changed. One that we do not know comes with the load of its catalogue. */
export function hearStations(stations) {
  const places = [];
  for (const station of stations) {
    for (const told of underWay) told.stations.set(station.id, station);
    const place = store.stations.get(station.id);
    if (place) places.push(Object.assign(place, station));
  }
  follow(places);
}

// ----------------------------------------------------------------------------------------------------- what follows

/** What is on the map follows from readings and alerts: it tells the same as the table and the list beside it. */
function follow(places) {
  const marks = new Map();
  for (const alert of store.alerts.values()) {
    if (alert.state !== "open" && alert.state !== "acknowledged") continue;
    const mark = marks.get(alert.station) ?? { level: 0, open: false };
    mark.level = Math.max(mark.level, alert.level);
    mark.open ||= alert.state === "open";
    marks.set(alert.station, mark);
  }
  for (const place of places) {
    const mark = marks.get(place.id) ?? { level: 0, open: false };
    //  of a cut list we do not know that a station has no alert: the service tells when it has none any more
    place.alert_level = store.alertsCut ? Math.max(place.alert_level, mark.level) : mark.level;
    place.unacknowledged = mark.open || (store.alertsCut && place.unacknowledged);
    showLatest(place);
  }
}

function showLatest(place) {
  const head = place.headline;
  const latest = head && store.latest.get(seriesKey(place.id, head.property));
  if (!latest || latest.time_ms < head.time_ms) return;
  const { value, flag, time_ms } = latest;
  place.headline = { ...head, value, flag, time_ms };
}
