// The address holds every choice: #s=STATION&p=PROPERTY&d=air,ocean&v=ZOOM/LAT/LON&lang=zh&theme=dark.
// A #token=… from the printed link is taken out of the address at once and kept for this tab only.
import { setToken } from "./api.js";

const params = () => new URLSearchParams(location.hash.slice(1));

export function readAddress() {
  const hash = params();
  if (hash.has("token")) {
    setToken(hash.get("token"));
    hash.delete("token");
    replace(hash);
  }
  return {
    station: hash.get("s"),
    property: hash.get("p"),
    domains: hash.has("d") ? new Set(hash.get("d").split(",").filter(Boolean)) : null,
    view: parseView(hash.get("v")),
    sheet: hash.get("sheet"),
    lang: hash.get("lang"),
    theme: hash.get("theme"),
  };
}

/** Write choices; null takes one out. `push` makes a step that the Back button undoes. */
export function writeAddress(changes, { push = false } = {}) {
  const hash = params();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined) hash.delete(name);
    else hash.set(name, value);
  }
  if (hash.toString() === params().toString()) return;
  if (push) history.pushState(null, "", `#${readable(hash)}`);
  else replace(hash);
}

function replace(hash) {
  const text = readable(hash);
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

const readable = (hash) => hash.toString().replaceAll("%2F", "/").replaceAll("%2C", ",");

function parseView(text) {
  const [zoom, lat, lon] = (text ?? "").split("/").map(Number);
  return [zoom, lat, lon].every(Number.isFinite) && text ? { zoom, lat, lon } : null;
}
