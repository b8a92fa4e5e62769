// Finds room for words on the chart: names of limits and reasons of flagged readings stand beside the curve, never on it
// or on each other. All lengths are device pixels; a box is {left, top, right, bottom}.

const meets = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

const within = (box, frame) =>
  box.left >= frame.left && box.right <= frame.right && box.top >= frame.top && box.bottom <= frame.bottom;

/** Room inside `frame` that is not taken; `curve`: boxes of the line's pieces. */
export function makeRoom(frame, curve) {
  const taken = [];
  return {
    /** Nothing may stand on this box any more. */
    take: (box) => taken.push(box),
    /** The first of `boxes` that is free, now taken; null when none is. */
    place(boxes) {
      const free = boxes.find((box) => within(box, frame) && ![...taken, ...curve].some((other) => meets(box, other)));
      if (free) taken.push(free);
      return free ?? null;
    },
  };
}

/** Boxes of a line's pieces; `points`: [x, y] in order, null where the line breaks; `half`: of the line's width. */
export function curveBoxes(points, half) {
  const boxes = [];
  points.forEach((point, index) => {
    if (!point) return;
    const [x, y] = point;
    const [px, py] = points[index - 1] ?? point;
    boxes.push({ left: px - half, right: x + half, top: Math.min(y, py) - half, bottom: Math.max(y, py) + half });
  });
  return boxes;
}

/** Where the name of the limit at `y` may stand: right to left, above the line first, then below it. */
export function besideLine(frame, y, wide, high) {
  const boxes = [];
  const step = Math.max(wide / 3, 1);
  for (let right = frame.right; right - wide >= frame.left; right -= step) {
    for (const top of [y - high - 1, y + 2]) boxes.push({ left: right - wide, right, top, bottom: top + high });
  }
  return boxes;
}

/** Where the words of the ring at (x, y) may stand: right or left of it, at its height, then lower, then higher. */
export function besideRing(x, y, gap, wide, high) {
  const boxes = [];
  for (const lines of [0, 1, -1, 2, -2]) {
    const top = y - high / 2 + lines * high;
    boxes.push({ left: x + gap, right: x + gap + wide, top, bottom: top + high });
    boxes.push({ left: x - gap - wide, right: x - gap, top, bottom: top + high });
    if (lines) boxes.push({ left: x - wide / 2, right: x + wide / 2, top: top + Math.sign(lines) * 3, bottom: top + Math.sign(lines) * 3 + high });
  }
  return boxes;
}
