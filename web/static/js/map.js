// The map in the middle: stations as marks, the chosen one ringed, unacknowledged orange and red ones pulsing.
import { Map as GlMap, Marker, setWorkerUrl } from "../vendor/maplibre-gl/maplibre-gl.mjs";
import { byId, h, setText } from "./dom.js";
import { age, flagWords, nameOf, number, short } from "./format.js";
import { lang, t } from "./i18n.js";
import { LABEL_FONTS, mapStyle, placeText, themedPaint } from "./mapstyle.js";
import { drawMark, formOf, holdsText, isMinor, paint } from "./marks.js";
import { now, on, property, shows, store } from "./store.js";
import { onTheme, palette } from "./theme.js";

const HOME = { center: [120.36, 36.13], zoom: 9.75 };
const BOUNDS = [[118.2, 34.9], [122.4, 37.7]];
const REDRAW_MS = 500;
const MAX_IMAGES = 600;

let map = null;
let colours = null;
let ready = false;
let timer = 0;
let shown = "";
const pulses = new Map();

/** Can this browser draw it at all? */
export function hasWebGl() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2"));
}

/** Start the map. `onChoose(id|null)` when a mark or the empty sea is clicked, `onView(view)` after a move. */
export function startMap({ view, onChoose, onView }) {
  setWorkerUrl(new URL("../vendor/maplibre-gl/maplibre-gl-worker.mjs", import.meta.url).href);
  colours = palette();
  map = new GlMap({
    container: byId("map"),
    style: mapStyle(colours, lang()),
    center: view ? [view.lon, view.lat] : HOME.center,
    zoom: view ? view.zoom : HOME.zoom,
    minZoom: 7.5,
    maxZoom: 16,
    maxBounds: BOUNDS,
    attributionControl: false,
    dragRotate: false,
    pitchWithRotate: false,
    touchPitch: false,
    localIdeographFontFamily: LABEL_FONTS,
    fadeDuration: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 150,
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.on("load", () => {
    ready = true;
    redraw();
    byId("map").dataset.ready = "yes";
  });
  map.on("moveend", () => tellView(onView));
  map.on("click", (event) => onChoose(hit(event.point)));
  map.on("mousemove", (event) => hover(event.point));
  map.on("mouseout", () => hover(null));
  on("stations latest choice", schedule);
  on("choice", ring);
  onTheme(recolour);
}

export function zoomBy(step) {
  map?.easeTo({ zoom: map.getZoom() + step, duration: 200 });
}

export function panBy(x, y) {
  map?.panBy([x, y], { duration: 150 });
}

/** Bring all shown stations into view. */
export function home() {
  const points = [...store.stations.values()].filter((place) => shows(place.domain));
  if (!map || !points.length) return;
  const lons = points.map((place) => place.lon);
  const lats = points.map((place) => place.lat);
  const box = [[Math.min(...lons), Math.min(...lats)], [Math.max(...lons), Math.max(...lats)]];
  map.fitBounds(box, { padding: 48, maxZoom: 12 });
}

/** Move only when the station is out of sight: a view that jumps takes the operator's place away. */
export function reveal(id) {
  const place = store.stations.get(id);
  if (!map || !place) return;
  const spot = map.project([place.lon, place.lat]);
  const { clientWidth, clientHeight } = map.getContainer();
  const narrow = matchMedia("(max-width: 899px)").matches; //  there the panel covers the lower part of the map
  const floor = narrow ? clientHeight * 0.26 : clientHeight - 40;
  const inside = spot.x > 40 && spot.y > 40 && spot.x < clientWidth - 40 && spot.y < floor;
  const offset = narrow ? [0, -clientHeight * 0.34] : [0, 0];
  if (!inside) map.easeTo({ center: [place.lon, place.lat], offset, duration: 400 });
}

export function relabel() {
  if (!ready) return;
  for (const kind of ["district", "sea"]) map.setLayoutProperty(`place-${kind}`, "text-field", placeText(lang()));
  redraw();
}

function tellView(onView) {
  const { lng, lat } = map.getCenter();
  onView(`${map.getZoom().toFixed(2)}/${lat.toFixed(4)}/${lng.toFixed(4)}`);
}

function schedule() {
  if (timer) return;
  timer = setTimeout(() => {
    timer = 0;
    redraw();
  }, REDRAW_MS);
}

function redraw() {
  if (!ready) return;
  const places = [...store.stations.values()].filter((place) => shows(place.domain));
  const wanted = new Set();
  const features = places.map((place) => feature(place, wanted));
  const drawn = JSON.stringify(features);
  if (drawn !== shown) map.getSource("stations").setData({ type: "FeatureCollection", features });
  shown = drawn;
  forget(wanted);
  drawPulses(places);
  ring();
}

function feature(place, wanted) {
  const form = formOf(place.domain);
  const look = paint(place, colours);
  const head = place.headline;
  const meta = head ? property(head.property) : null;
  const text = holdsText(form) && head ? short(head.value, meta?.precision) : "";
  const chosen = place.id === store.choice.station;
  const small = isMinor(form) && place.alert_level === 0 && !chosen;
  const icon = imageOf(form, look, text, wanted);
  const line = !holdsText(form) && head && Number.isFinite(head.value)
    ? `\n${number(head.value, meta?.precision)} ${head.unit_label ?? ""}`
    : "";
  return {
    type: "Feature",
    geometry: { type: "Point", coordinates: [place.lon, place.lat] },
    properties: {
      id: place.id,
      icon,
      far: small ? imageOf(form, look, "", wanted) : icon,
      size: small ? 0.6 : 0.9,
      form,
      name: nameOf(place) || place.id,
      line,
      shade: colours.muted,
      order: chosen ? -10 : small ? 1 : -place.alert_level - (place.unacknowledged ? 0.5 : 0),
    },
  };
}

/** The name of the image of a mark, drawn when it is not there yet. */
function imageOf(form, look, text, wanted) {
  const name = JSON.stringify([form, look, text]);
  wanted.add(name);
  if (!map.hasImage(name)) {
    const drawn = drawMark(form, look, text);
    map.addImage(name, drawn.image, { pixelRatio: drawn.pixelRatio });
  }
  return name;
}

/** Each value makes an image; take the unused ones out before they pile up. */
function forget(wanted) {
  const images = map.listImages();
  if (images.length < MAX_IMAGES) return;
  for (const name of images) if (!wanted.has(name)) map.removeImage(name);
}

function drawPulses(places) {
  const loud = new Set();
  for (const place of places) {
    if (!place.unacknowledged || place.alert_level < 3) continue;
    loud.add(place.id);
    if (!pulses.has(place.id)) {
      const element = h("div", { class: "pulse", "aria-hidden": "true" }, h("i"));
      pulses.set(place.id, new Marker({ element }).setLngLat([place.lon, place.lat]).addTo(map));
      for (const name of ["role", "aria-label", "tabindex"]) element.removeAttribute(name); //  a sign, not a control
    }
    pulses.get(place.id).getElement().dataset.level = place.alert_level;
  }
  for (const [id, marker] of pulses) {
    if (loud.has(id)) continue;
    marker.remove();
    pulses.delete(id);
  }
}

function ring() {
  if (ready) map.setFilter("ring", ["==", ["get", "id"], store.choice.station ?? ""]);
}

function recolour() {
  colours = palette();
  if (!ready) return;
  for (const [layer, name, value] of themedPaint(colours)) map.setPaintProperty(layer, name, value);
  redraw();
}

function hit(point) {
  if (!ready) return null;
  const reach = 4;
  const box = [[point.x - reach, point.y - reach], [point.x + reach, point.y + reach]];
  const found = map.queryRenderedFeatures(box, { layers: ["marks", "labels"] });
  return found.length ? found[0].properties.id : null;
}

function hover(point) {
  const tip = byId("map-tip");
  const place = point ? store.stations.get(hit(point)) : null;
  map.getCanvas().style.cursor = place ? "pointer" : "";
  tip.hidden = !place;
  if (!place) return;
  setText(tip.children[0], nameOf(place) || place.id);
  setText(tip.children[1], tipText(place));
  const left = point.x > map.getContainer().clientWidth - 240;
  tip.style.transform = `translate(${point.x + (left ? -16 : 16)}px, ${point.y + 12}px) translateX(${left ? -100 : 0}%)`;
}

function tipText(place) {
  const words = [t(`state_${place.state}`)];
  const head = place.headline;
  if (head) {
    const meta = property(head.property);
    words.push(`${nameOf(meta)} ${number(head.value, meta?.precision)} ${head.unit_label ?? ""}`.trim());
    if (head.flag !== 1) words.push(flagWords(store.catalogue, head.flag, 0));
    words.push(age(now() - head.time_ms));
  }
  return words.join(" · ");
}
