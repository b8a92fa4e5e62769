// The map's style: sea, land, coast, place names, and the layers of the stations. No glyphs key and no sprite,
// so that MapLibre draws every letter itself and asks no other host for anything.

const data = (name) => new URL(`../data/${name}`, import.meta.url).href;
const FONT = ["Noto Sans SC"];
/** Below this zoom the many small neighbours of a town (noise, communities …) are drawn small and without figures. */
const NEAR_ZOOM = 10.8;
const empty = { type: "FeatureCollection", features: [] };

export const LABEL_FONTS = '"Noto Sans SC","Noto Sans CJK SC","PingFang SC","Microsoft YaHei",system-ui,sans-serif';

/** `colours` from theme.palette(), `lang` "zh" or "en". */
export function mapStyle(colours, lang) {
  return {
    version: 8,
    sources: {
      land: { type: "geojson", data: data("land.geojson") },
      coast: { type: "geojson", data: data("qingdao_coast_osm.geojson") },
      places: { type: "geojson", data: data("places.geojson") },
      stations: { type: "geojson", data: empty, promoteId: "id" },
    },
    layers: [
      { id: "sea", type: "background", paint: { "background-color": colours.sea } },
      { id: "land", type: "fill", source: "land", paint: { "fill-color": colours.land, "fill-antialias": false } },
      { id: "coast", type: "line", source: "coast", paint: { "line-color": colours.coast, "line-width": 1 } },
      placeLayer("district", lang, colours),
      placeLayer("sea", lang, colours),
      ringLayer(colours),
      labelLayer(colours),
      markLayer(),
    ],
  };
}

/** Colours that change with the theme: [layer, paint property, colour]. */
export function themedPaint(colours) {
  return [
    ["sea", "background-color", colours.sea],
    ["land", "fill-color", colours.land],
    ["coast", "line-color", colours.coast],
    ["place-district", "text-color", colours.muted],
    ["place-district", "text-halo-color", colours.land],
    ["place-sea", "text-color", colours.sealab],
    ["place-sea", "text-halo-color", colours.sea],
    ["ring", "circle-stroke-color", colours.accent],
    ["labels", "text-color", colours.ink],
    ["labels", "text-halo-color", colours.land],
  ];
}

export const placeText = (lang) => ["get", lang];

function placeLayer(kind, lang, colours) {
  const sea = kind === "sea";
  return {
    id: `place-${kind}`,
    type: "symbol",
    source: "places",
    filter: ["==", ["get", "kind"], kind],
    layout: {
      "text-field": placeText(lang),
      "text-font": FONT,
      "text-size": sea ? 12.5 : 11,
      "text-letter-spacing": sea ? 0.22 : 0.12,
      "text-max-width": 12,
    },
    paint: {
      "text-color": sea ? colours.sealab : colours.muted,
      "text-halo-color": sea ? colours.sea : colours.land,
      "text-halo-width": 1.2,
    },
  };
}

function ringLayer(colours) {
  return {
    id: "ring",
    type: "circle",
    source: "stations",
    filter: ["==", ["get", "id"], ""],
    paint: {
      "circle-radius": 24,
      "circle-opacity": 0,
      "circle-stroke-width": 2.5,
      "circle-stroke-color": colours.accent,
    },
  };
}

/** Where a label may stand, in ems from the middle of its mark: below first, then right, left, above. */
function around(down, aside) {
  return ["top", [0, down], "left", [aside, 0], "right", [-aside, 0], "bottom", [0, -down]];
}

/** Names under the marks; they give way to marks and to each other, the chosen and the alarming come first. */
function labelLayer(colours) {
  return {
    id: "labels",
    type: "symbol",
    source: "stations",
    layout: {
      "symbol-sort-key": ["get", "order"],
      "text-field": [
        "format",
        ["get", "name"],
        {},
        ["get", "line"],
        { "font-scale": 0.95, "text-color": ["get", "shade"] },
      ],
      "text-font": FONT,
      "text-size": 11.5,
      "text-max-width": 14,
      "text-padding": 1,
      "text-justify": "auto",
      "text-variable-anchor-offset": [
        "match",
        ["get", "form"],
        "pill",
        ["literal", around(1.85, 2.1)],
        "drop",
        ["literal", around(2.15, 1.5)],
        ["literal", around(1.85, 1.5)],
      ],
    },
    paint: {
      "text-color": colours.ink,
      "text-halo-color": colours.land,
      "text-halo-width": 1.6,
    },
  };
}

function markLayer() {
  return {
    id: "marks",
    type: "symbol",
    source: "stations",
    layout: {
      "symbol-sort-key": ["-", 0, ["get", "order"]],
      "icon-image": ["step", ["zoom"], ["get", "far"], NEAR_ZOOM, ["get", "icon"]],
      "icon-size": ["step", ["zoom"], ["get", "size"], NEAR_ZOOM, 1],
      "icon-allow-overlap": true,
      "icon-padding": 0,
    },
  };
}
