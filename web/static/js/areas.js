// Air quality of the city and its districts: the newest hour that was published, by the national index.
import { get } from "./api.js";
import { byId, h, reconcile, setAttr, setText } from "./dom.js";
import { hhmm } from "./format.js";
import { lang, t } from "./i18n.js";
import { on } from "./store.js";

const AGAIN_MS = 60_000;
const HOUR_MS = 3_600_000;
let areas = [];

export function startAreas() {
  on("lang", draw);
  ask();
}

async function ask() {
  try {
    areas = (await get("areas")).areas;
    draw();
  } catch {
    // The banner says that the service cannot be reached; what was known stays, with its hour.
  }
  setTimeout(ask, AGAIN_MS);
}

const indexOf = (area) => area.indices.find((one) => one.property === "aqi" && one.what === "hour_index");
const inWords = (one) => (lang() === "zh" ? one.zh : one.en);

function draw() {
  const shown = areas.filter(indexOf);
  byId("areas-head").hidden = !shown.length;
  reconcile(byId("areas"), shown, {
    key: (area) => area.area,
    make: () => h("li", {}, h("i", { "aria-hidden": "true" }), h("span"), h("b"), h("small")),
    update(element, area) {
      const index = indexOf(area);
      const [dot, name, value, level] = element.children;
      // Through the object model: the page's policy forbids style in markup.
      dot.style.background = index.level?.colour ?? "";
      setText(name, inWords(area));
      setText(value, index.value === null ? "—" : Math.round(index.value));
      setText(level, index.level ? inWords(index.level) : t("areas_none"));
      const span = `${hhmm(index.start_ms)}–${hhmm(index.start_ms + HOUR_MS)}`;
      setAttr(element, "title", t(index.valid ? "areas_hint" : "areas_hint_invalid", span, area.stations.length));
    },
  });
}
