// A drawing of any size in the form of the digits of MNIST: `_form` of minitorch_train/pictures.py, number for number.
"use strict";

// Python's rounding: a half goes to the even neighbour.
function rounded(x) {
  const below = Math.floor(x), over = x - below;
  return over > 0.5 || (over === 0.5 && below % 2 !== 0) ? below + 1 : below;
}

// The square of how far each place of a line is from the nearest one, when place q starts with the square far[q]
// (Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions", 2012: the lower of all parabolas).
function nearestAlong(far) {
  const n = far.length, seats = [0], from = [-Infinity], out = new Float64Array(n);
  const meet = (q, r) => (far[q] + q * q - far[r] - r * r) / (2 * q - 2 * r);
  for (let q = 1; q < n; q++) {
    while (from.length > 1 && meet(q, seats.at(-1)) <= from.at(-1)) { seats.pop(); from.pop(); }
    from.push(meet(q, seats.at(-1)));
    seats.push(q);
  }
  for (let q = 0, k = 0; q < n; q++) {
    while (k + 1 < from.length && from[k + 1] < q) k++;
    out[q] = (q - seats[k]) ** 2 + far[seats[k]];
  }
  return out;
}

// How far each pixel is from the nearest one where the mask is `wanted`.
function distances(mask, height, width, wanted) {
  const out = Float64Array.from(mask, (value) => (value === wanted ? 0 : 1e9));
  for (let x = 0; x < width; x++) {
    const column = nearestAlong(Float64Array.from({ length: height }, (_, y) => out[y * width + x]));
    column.forEach((value, y) => { out[y * width + x] = value; });
  }
  for (let y = 0; y < height; y++) out.set(nearestAlong(out.slice(y * width, (y + 1) * width)), y * width);
  return out.map(Math.sqrt);
}

// The smallest box that holds all ink, cut out: [pixels, height, width]. Less than a thousandth is a rounding error.
function cut(pixels, width) {
  const xs = [], ys = [];
  pixels.forEach((value, k) => { if (value > 0.001) { xs.push(k % width); ys.push(Math.floor(k / width)); } });
  const ends = (all) => all.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [left, right] = ends(xs), [top, bottom] = ends(ys), size = right - left + 1;
  const out = new pixels.constructor(size * (bottom - top + 1));
  for (let y = top; y <= bottom; y++) out.set(pixels.subarray(y * width + left, y * width + right + 1), (y - top) * size);
  return [out, bottom - top + 1, size];
}

// Each row of n pixels as m: every new pixel is the mean of those below it, weighed by a triangle.
function resizedRows(pixels, n, m) {
  const rows = pixels.length / n, scale = n / m, reach = Math.max(scale, 1), out = new Float32Array(rows * m);
  for (let j = 0; j < m; j++) {
    const middle = (j + 0.5) * scale, first = Math.max(0, Math.floor(middle - reach + 0.5)), end = Math.min(n, Math.floor(middle + reach + 0.5));
    const weights = Array.from({ length: end - first }, (_, k) => Math.max(0, 1 - Math.abs((first + k - middle + 0.5) / reach)));
    const all = weights.reduce((a, b) => a + b);
    for (let i = 0; i < rows; i++) out[i * m + j] = weights.reduce((total, w, k) => total + (w / all) * pixels[i * n + first + k], 0);
  }
  return out;
}

function turned(pixels, width) {
  const height = pixels.length / width;
  return Float32Array.from(pixels, (_, k) => pixels[(k % height) * width + Math.floor(k / height)]);
}

// A mask (1 for ink) in rows of `side` pixels, in the form of MNIST: 784 numbers from 0 to 1. Strokes as wide as theirs, the
// longer side 20 pixels, and the middle of the ink in the middle of the picture.
function form(mask, side) {
  const digit = new Float32Array(784);
  if (!mask.some((value) => value)) return digit;
  const [drawn, rows, columns] = cut(mask, side), long = Math.max(rows, columns), pad = Math.floor(long / 6) + 4;
  const height = rows + 2 * pad, width = columns + 2 * pad, padded = new Uint8Array(height * width);
  for (let y = 0; y < rows; y++) padded.set(drawn.subarray(y * columns, (y + 1) * columns), (y + pad) * width + pad);
  const inside = distances(padded, height, width, 0), outside = distances(padded, height, width, 1);
  const depth = inside.reduce((a, b) => a + b) / drawn.reduce((a, b) => a + b);
  const stroke = 4 * (depth - 0.5), wanted = (2.6 * Math.max(long - stroke, 1)) / (20 - 2.6);
  const grow = Math.min(Math.max((wanted - stroke) / 2, -stroke / 4), long / 6);
  const grown = Float32Array.from(padded, (value, k) => Math.min(Math.max(grow + 0.5 + (value ? inside[k] - 0.5 : 0.5 - outside[k]), 0), 1));
  const [ink, h, w] = cut(grown, width);
  const size = (n) => Math.max(1, rounded((n * 20) / Math.max(h, w)));
  const small = turned(resizedRows(turned(resizedRows(ink, w, size(w)), size(w)), h, size(h)), size(h));
  const total = small.reduce((a, b) => a + b);
  const start = (n, place) => Math.min(Math.max(0, rounded(14.499 - small.reduce((sum, value, k) => sum + value * (place(k) + 0.5), 0) / total)), 28 - n);
  const top = start(size(h), (k) => Math.floor(k / size(w))), left = start(size(w), (k) => k % size(w));
  small.forEach((value, k) => { digit[(top + Math.floor(k / size(w))) * 28 + left + (k % size(w))] = value; });
  return digit;
}
