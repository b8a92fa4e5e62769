// Search: stations by name, number, place. A combobox: arrows choose, Enter opens, Esc leaves.
import { byId, h, setText } from "./dom.js";
import { nameOf } from "./format.js";
import { t } from "./i18n.js";
import { formIcon, formOf, paint } from "./marks.js";
import { on, store } from "./store.js";
import { palette } from "./theme.js";

const MOST = 12;
let at = -1;

export function startSearch(choose) {
  const field = byId("search");
  const list = byId("search-list");
  const close = () => {
    list.hidden = true;
    field.setAttribute("aria-expanded", "false");
    at = -1;
  };
  const pick = (id) => {
    field.value = "";
    field.blur();
    close();
    choose(id);
  };
  field.addEventListener("input", () => draw(field, list, pick));
  field.addEventListener("focus", () => draw(field, list, pick));
  field.addEventListener("blur", () => setTimeout(close, 150));
  field.addEventListener("keydown", (event) => {
    const options = [...list.querySelectorAll("[role=option]")];
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      mark(field, options, event.key === "ArrowDown" ? at + 1 : at - 1);
    } else if (event.key === "Enter" && options.length) pick((options[at] ?? options[0]).dataset.id);
    else if (event.key === "Escape") {
      event.stopPropagation();
      field.value = "";
      field.blur();
    }
  });
  on("lang", () => field.setAttribute("placeholder", t("search_hint")));
}

function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const hay = (place) =>
    [place.id, place.zh, place.en, place.district_zh, place.district_en, place.street, place.community, place.kind].filter(Boolean).join(" ").toLowerCase();
  return [...store.stations.values()].filter((place) => words.every((word) => hay(place).includes(word)));
}

function draw(field, list, pick) {
  const found = find(field.value);
  const colours = palette();
  const options = found.slice(0, MOST).map((place, index) =>
    h(
      "li",
      { role: "option", id: `option-${index}`, "data-id": place.id, "aria-selected": "false", onpointerdown: (event) => { event.preventDefault(); pick(place.id); } },
      formIcon(formOf(place.domain), paint(place, colours)),
      h("b", {}, nameOf(place) || place.id),
      h("span", {}, [nameOf(place, "district"), place.id].filter(Boolean).join(" · ")),
      h("small", {}, t(`state_${place.state}`)),
    ),
  );
  const foot = h("li", { class: "foot", role: "presentation" });
  setText(foot, found.length ? t("search_count", found.length) : t("search_none", field.value));
  list.replaceChildren(...options, foot);
  list.hidden = false;
  at = -1;
  field.setAttribute("aria-expanded", "true");
  field.removeAttribute("aria-activedescendant");
}

function mark(field, options, to) {
  if (!options.length) return;
  at = (to + options.length) % options.length;
  options.forEach((option, index) => option.setAttribute("aria-selected", String(index === at)));
  options[at].scrollIntoView({ block: "nearest" });
  field.setAttribute("aria-activedescendant", options[at].id);
}
