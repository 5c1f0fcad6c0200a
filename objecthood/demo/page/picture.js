// A picture as the page holds it: the file that the model is given, and its pixels at the sizes that are shown.

export const SHOWN = 320, SMALL = 96; // pixels a side of the stage and of a slot's card
const BLOCKS = 64; // pixels a side below which a picture is shown in blocks, as it is

/** A picture from a file or blob; `shown` stays empty where this browser cannot decode it, though a server may. */
export async function fromBlob(blob) {
  const picture = { blob, shown: null, small: null };
  try {
    const bitmap = await createImageBitmap(blob);
    show(picture, bitmap);
    bitmap.close();
  } catch { /* the model may know it all the same */ }
  return picture;
}

/** A picture from a scene, a function of the side: sharp on the page, and exactly `resolution` for the model. */
export async function fromScene(scene, resolution) {
  const blob = await toCanvas(scene(resolution), resolution).convertToBlob({ type: "image/png" });
  const picture = { blob, shown: null, small: null };
  show(picture, toCanvas(scene(2 * SHOWN), 2 * SHOWN));
  return picture;
}

/** Show what the model saw, planes [3, side, side] in [0, 1], where nothing better is there. */
export function showPlanes(picture, planes) {
  if (picture.shown) return;
  const side = Math.sqrt(planes.length / 3), size = side * side, pixels = new Uint8ClampedArray(4 * size);
  for (let at = 0; at < size; at++) {
    for (let channel = 0; channel < 3; channel++) pixels[4 * at + channel] = 255 * planes[channel * size + at];
    pixels[4 * at + 3] = 255;
  }
  show(picture, toCanvas(pixels, side));
}

function show(picture, source) {
  picture.shown = read(source, SHOWN);
  picture.small = read(source, SMALL);
}

function read(source, side) {
  const canvas = new OffscreenCanvas(side, side), context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, side, side);
  context.imageSmoothingEnabled = source.width >= BLOCKS;
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, side, side);
  return context.getImageData(0, 0, side, side).data;
}

function toCanvas(pixels, side) {
  const canvas = new OffscreenCanvas(side, side);
  canvas.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
  return canvas;
}
