// An image on the page: its file for the model, and its pixels at the sizes that are shown.

import { placeIn } from "./resize.js";

export const SHOWN = 320, SMALL = 96; // side in pixels of the large canvas and of a slot's card
const BLOCKS = 64; // images with a smaller side are enlarged without smoothing

/** An image from a file or blob; `shown` is null if the browser cannot decode it (the server may). */
export async function fromBlob(blob, fit) {
  const picture = { blob, shown: null, small: null };
  try {
    const bitmap = await createImageBitmap(blob);
    show(picture, bitmap, fit);
    bitmap.close();
  } catch { /* the server may decode it */ }
  return picture;
}

/** An image from a scene, a function of the side: sharp on the page, at `resolution` for the model. */
export async function fromScene(scene, resolution) {
  const blob = await toCanvas(scene(resolution), resolution).convertToBlob({ type: "image/png" });
  const picture = { blob, shown: null, small: null };
  show(picture, toCanvas(scene(2 * SHOWN), 2 * SHOWN));
  return picture;
}

/** Show the model's input, planes [3, side, side] in [0, 1], if nothing is shown yet. */
export function showPlanes(picture, planes) {
  if (picture.shown) return;
  const side = Math.sqrt(planes.length / 3), size = side * side, pixels = new Uint8ClampedArray(4 * size);
  for (let at = 0; at < size; at++) {
    for (let channel = 0; channel < 3; channel++) pixels[4 * at + channel] = 255 * planes[channel * size + at];
    pixels[4 * at + 3] = 255;
  }
  show(picture, toCanvas(pixels, side));
}

function show(picture, source, fit) {
  picture.shown = read(source, SHOWN, fit);
  picture.small = read(source, SMALL, fit);
}

/** The pixels of a square, into which the source is fitted as in the model's input. */
function read(source, side, fit) {
  const canvas = new OffscreenCanvas(side, side), context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, side, side);
  context.imageSmoothingEnabled = source.width >= BLOCKS;
  context.imageSmoothingQuality = "high";
  const { box, shown } = placeIn(source.width, source.height, side, fit), [left, top, width, height] = shown;
  context.drawImage(source, ...box, ...shown);
  context.imageSmoothingEnabled = false; // the border is repeated around it
  for (const [from, to, size] of [[left, 0, left], [left + width - 1, left + width, side - left - width]]) {
    if (size) context.drawImage(canvas, from, top, 1, height, to, top, size, height);
  }
  for (const [from, to, size] of [[top, 0, top], [top + height - 1, top + height, side - top - height]]) {
    if (size) context.drawImage(canvas, 0, from, side, 1, 0, to, side, size);
  }
  return context.getImageData(0, 0, side, side).data;
}

function toCanvas(pixels, side) {
  const canvas = new OffscreenCanvas(side, side);
  canvas.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
  return canvas;
}
