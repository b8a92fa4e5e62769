// Light or dark: follows the system until the operator chooses. Canvas code asks here for the tokens' colours.
const KEY = "qingtu.theme";
const media = matchMedia("(prefers-color-scheme: dark)");
const probe = document.createElement("i");
const listeners = [];

export const isDark = () => (document.documentElement.dataset.theme ?? (media.matches ? "dark" : "light")) === "dark";

/** `chosen`: from the address, else what was chosen before on this machine, else the system's. */
export function startTheme(chosen) {
  const theme = chosen ?? localStorage.getItem(KEY);
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  probe.hidden = true;
  document.body.append(probe);
  media.addEventListener("change", tell);
}

export function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(KEY, theme);
  tell();
}

export const onTheme = (listener) => listeners.push(listener);

function tell() {
  for (const listener of listeners) listener();
}

/** A CSS token as a plain colour; light-dark() is resolved by the browser. */
export function colour(token) {
  probe.style.color = `var(--${token})`;
  return getComputedStyle(probe).color;
}

/** All tokens that canvas drawings use. */
export function palette() {
  const names = ["bg", "surface", "raised", "ink", "muted", "line", "sea", "land", "coast", "accent", "bad", "warn", "ok"];
  const all = Object.fromEntries([...names, "l1", "l2", "l3", "l4"].map((name) => [name, colour(name)]));
  return { ...all, calm: colour("calm"), calmInk: colour("calm-ink"), calmEdge: colour("calm-edge"), sealab: colour("sea-label") };
}
