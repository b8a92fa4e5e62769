// Runs before the first paint, so that a chosen theme does not flash: the address first, then the last choice.
(() => {
  const theme = new URLSearchParams(location.hash.slice(1)).get("theme") ?? localStorage.getItem("qingtu.theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
})();
