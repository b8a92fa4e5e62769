// Builds elements. Text always goes in as text nodes: nothing in this project writes HTML from data.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. `attrs`: attributes; `on*` functions become listeners; null and false leave the attribute out. */
export function h(tag, attrs = {}, ...children) {
  const element = document.createElement(tag);
  return fill(element, attrs, children);
}

/** The same for SVG. */
export function svg(tag, attrs = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  return fill(element, attrs, children);
}

function fill(element, attrs, children) {
  for (const [name, value] of Object.entries(attrs)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Write text only when it differs, so that a selection in it survives and nothing is laid out anew. */
export function setText(element, text) {
  const value = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== value) element.textContent = value;
}

export function setAttr(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/**
 * Bring the children of `parent` in line with `items`, keeping the elements of keys that stay.
 * `make(item)` builds an element once, `update(element, item)` writes into it.
 */
export function reconcile(parent, items, { key, make, update }) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let cursor = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    let element = old.get(id);
    old.delete(id);
    if (!element) {
      element = make(item);
      element.dataset.key = id;
    }
    update(element, item);
    if (element === cursor) cursor = cursor.nextElementSibling;
    else parent.insertBefore(element, cursor);
  }
  for (const element of old.values()) element.remove();
}

/** Grey bars in the place of what comes. */
export function skeleton(rows) {
  return h("div", { class: "skeleton", "aria-hidden": "true" }, Array.from({ length: rows }, () => h("i")));
}

/** One sentence and the next step. */
export function emptyState(text, hint, action = null) {
  return h("div", { class: "empty" }, h("p", {}, text), hint ? h("p", { class: "hint" }, hint) : null, action);
}
