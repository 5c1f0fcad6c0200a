// Draw masks, attention and reconstructions on canvases. Maps are Float32Arrays of a square grid, enlarged bilinearly.

import { slotColor } from "./palette.js";

const DIM = 0.2, GLOW = 1.2; // brightness of pixels without attention, and at the maximum of attention
const FIRM = 0.4; // mask value from which a border is drawn
export const BACKGROUND = 0.2; // image share above which a slot is background (nn/attention_bias.py)

/** `values` of a square grid, enlarged to side * side. */
export function enlarge(values, side) {
  const from = Math.round(Math.sqrt(values.length)), large = new Float32Array(side * side);
  const near = new Uint16Array(side), share = new Float32Array(side);
  for (let place = 0; place < side; place++) {
    const at = Math.min(from - 1, Math.max(0, ((place + 0.5) * from) / side - 0.5));
    near[place] = Math.min(from - 2, Math.floor(at));
    share[place] = at - near[place];
  }
  for (let y = 0; y < side; y++) {
    const above = near[y] * from, down = share[y];
    for (let x = 0; x < side; x++) {
      const at = above + near[x], right = share[x];
      const top = values[at] + right * (values[at + 1] - values[at]);
      const bottom = values[at + from] + right * (values[at + from + 1] - values[at + from]);
      large[y * side + x] = top + down * (bottom - top);
    }
  }
  return large;
}

/**
 * An image with its segmentation.
 *
 * `layers` are { map, color }; `isSoft` mixes colours by the maps, else each pixel has the colour of the largest. The
 * background slot is not tinted. `focus` is the index of the highlighted layer, or -1.
 */
export function drawDivided(canvas, picture, layers, { isSoft, focus }) {
  const side = canvas.width, context = canvas.getContext("2d");
  const image = new ImageData(new Uint8ClampedArray(picture), side, side), pixels = image.data;
  const maps = layers.map(({ map }) => enlarge(map, side)), colors = layers.map(({ color }) => slotColor(color));
  const owner = new Int16Array(side * side).fill(-1), background = findBackground(layers);
  for (let at = 0; at < side * side && layers.length; at++) {
    let most = 0, total = 1e-9, red = 0, green = 0, blue = 0;
    for (let index = 0; index < maps.length; index++) {
      const share = maps[index][at], color = colors[index];
      if (share > most) [most, owner[at]] = [share, index];
      if (index === background) continue;
      total += share;
      red += share * color[0];
      green += share * color[1];
      blue += share * color[2];
    }
    if (owner[at] < 0) continue;
    const own = colors[owner[at]], isAside = focus >= 0 && owner[at] !== focus;
    const tint = isSoft ? [red / total, green / total, blue / total] : own;
    const share = isSoft ? Math.min(1, total) : owner[at] === background ? 0 : 1;
    const strength = share * (isAside ? 0.1 : focus >= 0 ? 0.2 : 0.55);
    for (let channel = 0; channel < 3; channel++) {
      const plain = pixels[4 * at + channel] * (isAside ? 0.35 : 1);
      pixels[4 * at + channel] = plain + strength * (tint[channel] - plain);
    }
  }
  drawBorders(pixels, owner, colors, side, (own, at) =>
    (focus < 0 ? own !== background : own === focus) && maps[own][at] > FIRM);
  context.putImageData(image, 0, 0);
}

/** The index of the largest layer if it is background, else -1. */
function findBackground(layers) {
  const areas = layers.map(({ map }) => map.reduce((sum, share) => sum + share, 0) / map.length);
  const largest = areas.indexOf(Math.max(...areas));
  return areas[largest] > BACKGROUND ? largest : -1;
}

/** Borders of the segments for which `isDrawn`, in the colour of the slot. */
function drawBorders(pixels, owner, colors, side, isDrawn) {
  const reach = [1, -1, side, -side, side + 1, side - 1, 1 - side, -1 - side];
  for (let y = 1; y < side - 1; y++) {
    for (let x = 1; x < side - 1; x++) {
      const at = y * side + x, own = owner[at];
      if (own < 0 || !isDrawn(own, at) || reach.every((step) => owner[at + step] === own)) continue;
      for (let channel = 0; channel < 3; channel++) pixels[4 * at + channel] = colors[own][channel];
    }
  }
}

/** Planes [3, side, side] in [0, 1] on a canvas, enlarged smoothly; a chequerboard if `planes` is null. */
export function drawPlanes(canvas, planes) {
  const context = canvas.getContext("2d");
  if (!planes) return drawChequers(context, canvas.width);
  const side = Math.round(Math.sqrt(planes.length / 3)), size = side * side;
  const small = new OffscreenCanvas(side, side), pixels = new Uint8ClampedArray(4 * size);
  for (let at = 0; at < size; at++) {
    for (let channel = 0; channel < 3; channel++) pixels[4 * at + channel] = 255 * planes[channel * size + at];
    pixels[4 * at + 3] = 255;
  }
  small.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, canvas.width, canvas.height); // enlarged pixels may be translucent
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** The image weighted by the attention of one slot. */
export function drawSpotlight(canvas, picture, attention) {
  const side = canvas.width, large = enlarge(attention, side);
  const brightest = Math.max(0.3, large.reduce((most, value) => Math.max(most, value), 0));
  const pixels = new Uint8ClampedArray(picture);
  for (let at = 0; at < side * side; at++) {
    const light = DIM + ((GLOW - DIM) * large[at]) / brightest;
    for (let channel = 0; channel < 3; channel++) pixels[4 * at + channel] *= light;
  }
  canvas.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
}

/** The appearance of one slot, masked, over a chequerboard. */
export function drawCutout(canvas, appearance, mask) {
  const context = canvas.getContext("2d");
  drawChequers(context, canvas.width);
  context.drawImage(cutout(appearance, mask), 0, 0, canvas.width, canvas.height);
}

/** The appearance of one slot with its mask as alpha, as a canvas of the model's resolution. */
export function cutout(appearance, mask) {
  const size = mask.length, side = Math.sqrt(size), pixels = new Uint8ClampedArray(4 * size);
  for (let at = 0; at < size; at++) {
    for (let channel = 0; channel < 3; channel++) pixels[4 * at + channel] = 255 * appearance[channel * size + at];
    pixels[4 * at + 3] = 255 * mask[at];
  }
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
  return canvas;
}

function drawChequers(context, side) {
  const cell = side / 12;
  for (let row = 0; row < 12; row++) {
    for (let column = 0; column < 12; column++) {
      context.fillStyle = (row + column) % 2 ? "#2f2f33" : "#242428";
      context.fillRect(column * cell, row * cell, cell + 1, cell + 1);
    }
  }
}
