// Segments at the size of what is shown, and the layer of their colours and borders.

import { slotColor } from "./palette.js";

const TINT = 0.5, SHADE = 0.72; // opacity of a segment's colour, and of the shade over what is not lit
const SHARP = 5; // how fast colours change across a border, in units of mask values
const SPECK = 0.0008; // share of the image below which a piece joins what is beside it

/** How much of a pixel belongs to its own segment; the rest belongs to the second. */
export const shareAt = (margin, at) => Math.min(1, 0.5 + SHARP * margin[at]);

/**
 * Draw the segments (`segmentsAtSize`) on a canvas: their colours, or, if some are lit, a shade over the others; with borders of two
 * pixels, or of one.
 */
export function drawLayer(canvas, { labels, second, margin, number }, lit, isThin = false) {
  const { width, height } = canvas;
  const colors = Array.from({ length: number }, (_, index) => slotColor(index));
  const image = new ImageData(width, height), pixels = image.data;
  for (let at = 0; at < width * height; at++) {
    const own = labels[at], other = second[at], share = shareAt(margin, at);
    if (lit.size) {
      const light = (lit.has(own) ? share : 0) + (lit.has(other) ? 1 - share : 0);
      pixels.set([10, 12, 16, 255 * SHADE * (1 - light)], 4 * at);
      continue;
    }
    for (let channel = 0; channel < 3; channel++) {
      pixels[4 * at + channel] = share * colors[own][channel] + (1 - share) * colors[other][channel];
    }
    pixels[4 * at + 3] = 255 * TINT;
  }
  drawBorders(pixels, labels, width, height, (own) => {
    if (!lit.size) return [255, 255, 255, 235];
    return lit.has(own) ? [...colors[own], 255] : null;
  }, isThin);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Give pieces of fewer than `least` pixels the label beside them. */
export function withoutSpecks(labels, width, height, least) {
  const seen = new Uint8Array(labels.length), stack = [], piece = [];
  for (let start = 0; start < labels.length; start++) {
    if (seen[start]) continue;
    const own = labels[start];
    let beside = own;
    seen[start] = 1;
    stack.push(start);
    piece.length = 0;
    while (stack.length) {
      const at = stack.pop(), x = at % width;
      if (piece.length < least) piece.push(at);
      for (const [next, isInside] of [
        [at - 1, x > 0], [at + 1, x < width - 1], [at - width, at >= width], [at + width, at < labels.length - width],
      ]) {
        if (!isInside) continue;
        if (labels[next] !== own) beside = labels[next];
        else if (!seen[next]) {
          seen[next] = 1;
          stack.push(next);
        }
      }
    }
    if (piece.length < least) for (const at of piece) labels[at] = beside;
  }
}

/** Masks [number * rows * columns], smoothed by [1, 2, 1] / 4 along both axes. */
function smoothed(masks, number, rows, columns) {
  const across = new Float32Array(masks.length), both = new Float32Array(masks.length);
  for (let row = 0; row < number * rows; row++) {
    for (let x = 0, at = row * columns; x < columns; x++, at++) {
      across[at] = (masks[x ? at - 1 : at] + 2 * masks[at] + masks[x < columns - 1 ? at + 1 : at]) / 4;
    }
  }
  for (let row = 0; row < number * rows; row++) {
    const y = row % rows, up = y ? columns : 0, down = y < rows - 1 ? columns : 0;
    for (let at = row * columns; at < (row + 1) * columns; at++) {
      both[at] = (across[at - up] + 2 * across[at] + across[at + down]) / 4;
    }
  }
  return both;
}

/**
 * Masks [number * rows * columns], smoothed and enlarged bilinearly to width * height: the two largest of every pixel, `labels` and
 * `second`, and by how much the first is larger, `margin`.
 */
export function segmentsAtSize({ masks: sharp, number, rows, columns }, width, height) {
  const masks = smoothed(sharp, number, rows, columns);
  const labels = new Uint8Array(width * height), second = new Uint8Array(width * height);
  const margin = new Float32Array(width * height), size = rows * columns;
  const place = (at, from, to) => Math.min(from - 1, Math.max(0, ((at + 0.5) * from) / to - 0.5));
  const line = new Float32Array(number * columns);
  const lefts = Int32Array.from({ length: width }, (_, x) => Math.floor(place(x, columns, width)));
  const shares = Float32Array.from({ length: width }, (_, x) => place(x, columns, width) - lefts[x]);
  for (let y = 0; y < height; y++) {
    const inY = place(y, rows, height), top = Math.min(rows - 1, Math.floor(inY)), down = inY - top;
    const upper = top * columns, lower = Math.min(rows - 1, top + 1) * columns;
    for (let index = 0; index < number; index++) {
      for (let x = 0, from = index * size; x < columns; x++) {
        line[index * columns + x] = masks[from + upper + x] * (1 - down) + masks[from + lower + x] * down;
      }
    }
    for (let x = 0; x < width; x++) {
      const left = lefts[x], right = Math.min(columns - 1, left + 1), share = shares[x], at = y * width + x;
      let most = -1, next = -1;
      for (let index = 0, from = 0; index < number; index++, from += columns) {
        const value = line[from + left] * (1 - share) + line[from + right] * share;
        if (value > most) {
          next = most;
          second[at] = labels[at];
          most = value;
          labels[at] = index;
        } else if (value > next) {
          next = value;
          second[at] = index;
        }
      }
      if (number === 1) second[at] = labels[at];
      margin[at] = most - Math.max(0, next);
    }
  }
  withoutSpecks(labels, width, height, SPECK * width * height);
  return { labels, second, margin };
}

/** Borders of two pixels (of one if `isThin`) between segments, in `colorOf(segment)` (RGBA), or none where that is null. */
function drawBorders(pixels, labels, width, height, colorOf, isThin) {
  for (let y = 0; y < height - 1; y++) {
    for (let x = 0; x < width - 1; x++) {
      const at = y * width + x;
      for (const beside of [at + 1, at + width]) {
        if (labels[at] === labels[beside]) continue;
        const color = colorOf(labels[at]) ?? colorOf(labels[beside]);
        if (!color) continue;
        pixels.set(color, 4 * at);
        if (!isThin) pixels.set(color, 4 * beside);
      }
    }
  }
}
