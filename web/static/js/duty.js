// Going on duty: the token that names the person who acts.
import { setToken, token } from "./api.js";
import { byId, h } from "./dom.js";
import { t } from "./i18n.js";
import { closeSheet, openSheet } from "./sheet.js";
import { on } from "./store.js";

export function startDuty() {
  byId("duty").addEventListener("click", () => openDuty());
  on("lang duty", draw);
  draw();
}

function draw() {
  const active = Boolean(token());
  byId("duty").replaceChildren(h("span", {}, t(active ? "duty_on" : "duty")), ...(active ? [h("b", { "aria-hidden": "true" }, "✓")] : []));
  byId("duty").setAttribute("aria-pressed", String(active));
}

/** Ask for the token; `then()` runs once one was given; `why` is said first (a refused token). */
export function openDuty(then = null, why = null) {
  const field = h("input", { type: "password", id: "duty-token", autocomplete: "off", required: true });
  const form = h(
    "form",
    { class: "duty", onsubmit: (event) => save(event, field, then) },
    why || then ? h("p", { class: why ? "bad" : "hint", role: "alert" }, why ?? t("duty_needed")) : null,
    h("p", {}, t("duty_text")),
    h("label", { for: "duty-token" }, t("duty_field")),
    field,
    h(
      "div",
      { class: "acts" },
      h("button", { class: "primary", type: "submit" }, t("duty_save")),
      token() ? h("button", { type: "button", onclick: leave }, t("duty_forget")) : null,
    ),
  );
  openSheet(t("duty_title"), form);
  field.focus();
}

function save(event, field, then) {
  event.preventDefault();
  setToken(field.value.trim());
  draw();
  closeSheet();
  if (then) setTimeout(then, 50);
}

function leave() {
  setToken(null);
  draw();
  closeSheet();
}
