// The marks of the map: form says the domain, colour the state, text the value. Drawn on canvas for MapLibre
// and as small pictures for lists, from the same paths.

const SCALE = 2; //  drawn at twice the size, so that they are sharp on dense screens
const FORMS = {
  air: "pill",
  weather: "vane",
  water: "drop",
  river: "drop",
  reservoir: "drop",
  surface_water: "drop",
  ocean: "diamond",
  sea: "diamond",
  marine: "diamond",
  noise: "disc",
  radiation: "trefoil",
  soil: "hexagon",
  source: "chimney",
  pollution: "chimney",
  construction: "chimney",
  community: "square",
};
const SIZES = { pill: [44, 28], drop: [30, 42], disc: [30, 30], square: [28, 28] };

export const formOf = (domain) => FORMS[domain] ?? "disc";

/** Forms wide enough for a figure; the others carry a sign and show the value in their label. */
export const holdsText = (form) => form === "pill" || form === "drop" || form === "disc";

/** Forms of the many: small on a far view, unless they have something to say. */
export const isMinor = (form) => !["pill", "drop", "diamond"].includes(form);

/** AQI colours of HJ 633: used only where the headline is an index, never for a plain concentration. */
const AQI = [
  [50, "#00e400", "#14202b"],
  [100, "#ffff00", "#14202b"],
  [150, "#ff7e00", "#14202b"],
  [200, "#ff0000", "#ffffff"],
  [300, "#99004c", "#ffffff"],
  [Infinity, "#7e0023", "#ffffff"],
];

/**
 * Fill, ink and border of a mark. `colours` are the resolved tokens of the theme.
 * State first: what is not heard has no fill, failing is hollow, and each state that explains itself has a sign of its
 * own; then the alert level; then calm.
 */
export function paint(place, colours) {
  if (place.state === "silent" || place.state === "unheard") {
    return { fill: null, ink: colours.muted, edge: colours.muted, dash: true };
  }
  if (place.state === "link_down" || place.state === "gateway_down") {
    return { fill: null, ink: colours.bad, edge: colours.muted, dash: true, sign: "cut" };
  }
  if (place.state === "clock_wrong") return { fill: colours.surface, ink: colours.bad, edge: colours.bad, sign: "clock" };
  if (place.state === "maintenance") return { fill: colours.surface, ink: colours.muted, edge: colours.muted, sign: "pause" };
  if (place.state === "failing") {
    return { fill: colours.surface, ink: colours.bad, edge: colours.bad, cross: true };
  }
  if (place.headline?.property === "aqi" && Number.isFinite(place.headline.value)) {
    const [, fill, ink] = AQI.find(([top]) => place.headline.value <= top);
    return { fill, ink, edge: "#0b1620" };
  }
  const level = place.alert_level;
  if (level > 0) return { fill: colours[`l${level}`], ink: level === 2 || level === 3 ? "#1d1200" : "#ffffff", edge: "#0b1620" };
  return { fill: colours.calm, ink: colours.calmInk, edge: colours.calmEdge };
}

/** Draw one mark; returns {width, height, data} for MapLibre's addImage at pixelRatio SCALE. */
export function drawMark(form, look, text) {
  const [width, height] = SIZES[form] ?? [30, 30];
  const canvas = document.createElement("canvas");
  canvas.width = width * SCALE;
  canvas.height = height * SCALE;
  const pen = canvas.getContext("2d");
  pen.scale(SCALE, SCALE);
  pen.translate(width / 2, form === "drop" ? 22 : height / 2);
  paintMark(pen, form, look, text);
  return { image: pen.getImageData(0, 0, canvas.width, canvas.height), pixelRatio: SCALE };
}

/** A small picture of a form for legends and lists. */
export function formIcon(form, look) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 16 * SCALE;
  canvas.className = "form-icon";
  canvas.setAttribute("aria-hidden", "true");
  const pen = canvas.getContext("2d");
  pen.scale(SCALE, SCALE);
  pen.translate(8, form === "drop" ? 8.6 : 8);
  pen.scale(form === "pill" ? 0.38 : 0.43, form === "pill" ? 0.45 : 0.43);
  paintMark(pen, form, { ...look, width: 2.4 }, "");
  return canvas;
}

function paintMark(pen, form, look, text) {
  pen.beginPath();
  (OUTLINES[form] ?? OUTLINES.disc)(pen);
  if (look.fill) {
    pen.fillStyle = look.fill;
    pen.fill();
  }
  pen.lineWidth = look.width ?? (look.dash || look.cross ? 1.8 : 1.2);
  pen.strokeStyle = look.edge;
  pen.setLineDash(look.dash ? [3.5, 2.8] : []);
  pen.stroke();
  pen.setLineDash([]);
  if (look.cross) cross(pen, look.ink);
  else if (look.sign) line(pen, look.ink, () => STATE_SIGNS[look.sign](pen));
  else if (text && holdsText(form)) figure(pen, form, look.ink, text);
  else SIGNS[form]?.(pen, look.ink);
}

function figure(pen, form, ink, text) {
  const size = form === "pill" ? 12 : text.length > 3 ? 9 : 10.5;
  pen.font = `650 ${size}px "Noto Sans SC","Noto Sans CJK SC",system-ui,sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillStyle = ink;
  pen.fillText(text, 0, form === "drop" ? 4 : 0.7);
}

function cross(pen, ink) {
  pen.beginPath();
  for (const side of [-1, 1]) {
    pen.moveTo(-4 * side, -4);
    pen.lineTo(4 * side, 4);
  }
  pen.lineWidth = 2;
  pen.lineCap = "round";
  pen.strokeStyle = ink;
  pen.stroke();
}

function polygon(pen, sides, radius, turn = 0) {
  for (let i = 0; i < sides; i += 1) {
    const angle = (i / sides) * 2 * Math.PI + turn;
    pen.lineTo(radius * Math.cos(angle), radius * Math.sin(angle));
  }
  pen.closePath();
}

const OUTLINES = {
  pill: (pen) => pen.roundRect(-19, -12, 38, 24, 12),
  drop: (pen) => {
    pen.moveTo(0, -18);
    pen.bezierCurveTo(6, -9, 12.5, -3, 12.5, 3);
    pen.arc(0, 3, 12.5, 0, Math.PI);
    pen.bezierCurveTo(-12.5, -3, -6, -9, 0, -18);
    pen.closePath();
  },
  diamond: (pen) => polygon(pen, 4, 14),
  disc: (pen) => pen.arc(0, 0, 12.5, 0, 2 * Math.PI),
  trefoil: (pen) => pen.arc(0, 0, 12, 0, 2 * Math.PI),
  hexagon: (pen) => polygon(pen, 6, 12.5, Math.PI / 6),
  chimney: (pen) => {
    for (const [x, y] of [[-11, 11], [-11, 0], [-4, 0], [-2.5, -12], [3.5, -12], [5, 0], [11, 0], [11, 11]]) {
      pen.lineTo(x, y);
    }
    pen.closePath();
  },
  square: (pen) => pen.roundRect(-10, -10, 20, 20, 5),
  vane: (pen) => polygon(pen, 3, 14, -Math.PI / 2),
};

function line(pen, ink, draw) {
  pen.beginPath();
  draw();
  pen.strokeStyle = ink;
  pen.lineWidth = 1.9;
  pen.lineCap = "round";
  pen.stroke();
}

/** Signs of states, the same on every form: a line that is cut, a clock, a pause. */
const STATE_SIGNS = {
  cut: (pen) => {
    for (const side of [-1, 1]) {
      pen.moveTo(7 * side, 0);
      pen.lineTo(3 * side, 0);
      pen.moveTo(3 * side, -3);
      pen.lineTo(3 * side, 3);
    }
  },
  clock: (pen) => {
    pen.moveTo(5.5, 0);
    pen.arc(0, 0, 5.5, 0, 2 * Math.PI);
    pen.moveTo(0, -3.5);
    pen.lineTo(0, 0);
    pen.lineTo(2.6, 1.4);
  },
  pause: (pen) => {
    for (const side of [-1, 1]) {
      pen.moveTo(2.6 * side, -4.5);
      pen.lineTo(2.6 * side, 4.5);
    }
  },
};

const SIGNS = {
  diamond: (pen, ink) =>
    line(pen, ink, () => {
      pen.moveTo(-7, 1.5);
      pen.quadraticCurveTo(-3.5, -3.5, 0, 1.5);
      pen.quadraticCurveTo(3.5, 6.5, 7, 1.5);
    }),
  trefoil: (pen, ink) => {
    pen.fillStyle = ink;
    for (let i = 0; i < 3; i += 1) {
      const middle = (i / 3) * 2 * Math.PI - Math.PI / 2;
      pen.beginPath();
      pen.moveTo(0, 0);
      pen.arc(0, 0, 8.5, middle - Math.PI / 6, middle + Math.PI / 6);
      pen.fill();
    }
  },
  hexagon: (pen, ink) =>
    line(pen, ink, () => {
      pen.moveTo(0, 6);
      pen.lineTo(0, -4);
      pen.moveTo(0, 0);
      pen.quadraticCurveTo(5, 0, 5, -4);
    }),
  square: (pen, ink) =>
    line(pen, ink, () => {
      pen.moveTo(-5, 0);
      pen.lineTo(0, -4.5);
      pen.lineTo(5, 0);
      pen.moveTo(-3.2, 0.5);
      pen.lineTo(-3.2, 5);
      pen.lineTo(3.2, 5);
      pen.lineTo(3.2, 0.5);
    }),
  vane: (pen, ink) =>
    line(pen, ink, () => {
      pen.moveTo(-4, 3);
      pen.lineTo(4, 3);
      pen.moveTo(0, 3);
      pen.lineTo(0, -5);
    }),
};
