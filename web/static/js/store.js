// What the page knows, and who wants to hear when it changes. No drawing and no network here.

const listeners = new Map();

export const store = {
  catalogue: null, //  /api/catalogue
  stations: new Map(), //  id → {…properties, lon, lat}
  latest: new Map(), //  "station|property|channel" → {time_ms, value, flag, tests, revision?, known_ms?}
  alerts: new Map(), //  id → alert
  alertsCut: false, //  there are more alerts than the service gives in one answer
  status: null, //  /api/status
  choice: { station: null, property: null, domains: null, view: null }, //  domains: Set, null = all
  link: { state: "connecting", since_ms: null }, //  connecting | live | offline
  failed: null, //  the error of the first load, if any
  skew_ms: 0, //  server clock minus ours
};

/** Call `listener(detail)` after each `emit(topic, detail)`. */
export function on(topic, listener) {
  for (const name of topic.split(" ")) {
    if (!listeners.has(name)) listeners.set(name, []);
    listeners.get(name).push(listener);
  }
}

export function emit(topic, detail) {
  for (const listener of listeners.get(topic) ?? []) listener(detail);
}

/** The server's clock, ms since the epoch. */
export const now = () => Date.now() + store.skew_ms;

export const seriesKey = (station, property, channel = "main") => `${station}|${property}|${channel}`;

export const station = (id) => store.stations.get(id) ?? null;

export const property = (key) => store.catalogue?.properties[key] ?? null;

export function shows(domain) {
  return store.choice.domains === null || store.choice.domains.has(domain);
}

/** All series of one station, in the order in which the catalogue names the properties. */
export function seriesOf(id) {
  const order = new Map(Object.keys(store.catalogue?.properties ?? {}).map((key, index) => [key, index]));
  const prefix = `${id}|`;
  const found = [];
  for (const [key, reading] of store.latest) {
    if (!key.startsWith(prefix)) continue;
    const [, prop, channel] = key.split("|");
    found.push({ ...reading, station: id, property: prop, channel, key });
  }
  const place = (item) => order.get(item.property) ?? order.size;
  return found.sort((a, b) => place(a) - place(b) || a.channel.localeCompare(b.channel));
}

/** Alerts that stand, newest unacknowledged of the highest level first. */
export function standing() {
  const live = [...store.alerts.values()].filter((a) => a.state === "open" || a.state === "acknowledged");
  return live.sort(
    (a, b) =>
      Number(a.state !== "open") - Number(b.state !== "open") || b.level - a.level || b.opened_ms - a.opened_ms,
  );
}
