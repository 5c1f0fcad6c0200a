// Fit images into the model's square as in objecthood/models/placement.py: bilinear, antialiased.

const MOST = 2048; // largest side read from a canvas; the browser shrinks larger images first

/** A file as planes [3, side, side] in [0, 1], composited over white; `fit` is that of the model. */
export async function readPlanes(blob, side, fit) {
  const bitmap = await createImageBitmap(blob);
  const { box, shown } = placeIn(bitmap.width, bitmap.height, side, fit);
  const width = Math.min(box[2], MOST), height = Math.min(box[3], MOST);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, ...box, 0, 0, width, height);
  bitmap.close();
  return toPlanes(context.getImageData(0, 0, width, height).data, width, height, side, shown);
}

/** Left, top, width and height of the visible `box` of an image, and of the region of the square where it is `shown`. */
export function placeIn(width, height, side, fit) {
  const inside = (size, ratio) => { // the largest [width, height] of an aspect ratio within a size
    const [w, h] = ratio, isTall = h * size[0] >= w * size[1];
    if (isTall) return [Math.max(1, Math.floor((2 * size[1] * w + h) / (2 * h))), size[1]];
    return [size[0], Math.max(1, Math.floor((2 * size[0] * h + w) / (2 * w)))];
  };
  const middle = (size, part) => [Math.floor((size[0] - part[0]) / 2), Math.floor((size[1] - part[1]) / 2), ...part];
  const image = [width, height], square = [side, side];
  return {
    box: middle(image, fit === "crop" ? inside(image, square) : image),
    shown: middle(square, fit === "pad" ? inside(square, image) : square),
  };
}

/**
 * RGBA bytes of width * height as planes [3, side, side] in [0, 1], rounded to 256 steps as Pillow does.
 *
 * They are resized to the region `shown` of the square, [left, top, width, height]; the border is repeated around it.
 */
export function toPlanes(pixels, width, height, side, shown = [0, 0, side, side]) {
  const [left, top, columns, numRows] = shown, nearest = (at, size) => Math.min(Math.max(at, 0), size - 1);
  const across = taps(width, columns), down = taps(height, numRows);
  const rows = new Float32Array(3 * height * columns), planes = new Float32Array(3 * side * side);
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < columns; x++) {
        const { first, weights } = across[x];
        let sum = 0;
        for (let tap = 0; tap < weights.length; tap++) {
          sum += weights[tap] * pixels[4 * (y * width + first + tap) + channel];
        }
        rows[(channel * height + y) * columns + x] = Math.round(sum);
      }
    }
    for (let y = 0; y < side; y++) {
      const { first, weights } = down[nearest(y - top, numRows)];
      for (let x = 0; x < side; x++) {
        const column = nearest(x - left, columns);
        let sum = 0;
        for (let tap = 0; tap < weights.length; tap++) {
          sum += weights[tap] * rows[(channel * height + first + tap) * columns + column];
        }
        planes[(channel * side + y) * side + x] = Math.round(sum) / 255;
      }
    }
  }
  return planes;
}

/** For each of `to` output samples, the first of `from` input samples and the weights of a triangle filter. */
function taps(from, to) {
  const scale = from / to, reach = Math.max(1, scale);
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const end = Math.min(from, Math.floor(centre + reach + 0.5));
    const weights = [];
    for (let at = first; at < end; at++) {
      weights.push(Math.max(0, 1 - Math.abs((at + 0.5 - centre) / reach)));
    }
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}
