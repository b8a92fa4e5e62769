// From a series of the API to what the chart draws: which points join, where a gap stays a gap, how high the frame is.

const GAP_INTERVALS = 3;

export const isFlagged = (flag) => flag === 3 || flag === 4;

/**
 * Arrays for uPlot. `x` in seconds; in `y` undefined lets the line pass (a flagged point stands outside it) and
 * null breaks it (more than three intervals without a good value). `source[i]` is the index in the series, or -1.
 */
export function lineOf(series, intervalS) {
  const x = [];
  const y = [];
  const source = [];
  let lastGood = null;
  series.times_ms.forEach((ms, index) => {
    const value = series.values[index];
    const time = ms / 1000;
    const good = Number.isFinite(value) && !isFlagged(series.flags[index]) && series.flags[index] !== 9;
    if (good && lastGood !== null && time - lastGood > GAP_INTERVALS * intervalS) {
      //  the break belongs anywhere between the two good points; flagged ones may already stand there
      const middle = (lastGood + time) / 2;
      let at = x.length;
      while (at > 0 && x[at - 1] > middle) at -= 1;
      x.splice(at, 0, middle);
      y.splice(at, 0, null);
      source.splice(at, 0, -1);
    }
    x.push(time);
    y.push(good ? value : undefined);
    source.push(index);
    if (good) lastGood = time;
  });
  return { x, y, source };
}

/** The series `old` with all from `from_ms` on replaced by `more`, and without what is before `first_ms`. */
export function joined(old, more, from_ms, first_ms) {
  const at = (ms) => {
    const found = old.times_ms.findIndex((time) => time >= ms);
    return found < 0 ? old.times_ms.length : found;
  };
  const all = { ...more };
  for (const name of ["times_ms", "values", "flags", "tests", "revisions", "known_ms"]) all[name] = [...old[name].slice(at(first_ms), at(from_ms)), ...more[name]];
  return all;
}

/** [low, high] of the frame: good values decide; a near limit is taken in, a far one and spikes are not. */
export function frameOf(y, limits) {
  const good = y.filter(Number.isFinite);
  if (!good.length) return [0, 1];
  let low = Math.min(...good);
  let high = Math.max(...good);
  const floor = low >= 0 ? 0 : -Infinity;
  const span = Math.max(high - low, Math.abs(high) * 0.08, 1e-6);
  for (const limit of limits) {
    if (limit.value > high && limit.value - high < 1.6 * span) high = limit.value;
    if (limit.value < low && low - limit.value < 1.6 * span) low = limit.value;
  }
  const pad = Math.max(high - low, span) * 0.1;
  return [Math.max(floor, low - pad), high + pad];
}
