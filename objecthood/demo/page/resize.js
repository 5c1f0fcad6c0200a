// Pictures to the size that a model sees, as objecthood/data/io/images.py does it: whole, bilinear, antialiased.

const MOST = 2048; // pixels a side that are read out of a canvas; larger pictures are halved by the browser first

/** A picture file as planes [3, side, side] in [0, 1]; transparency lies over white, proportions are not kept. */
export async function readPlanes(blob, side) {
  const bitmap = await createImageBitmap(blob);
  const width = Math.min(bitmap.width, MOST), height = Math.min(bitmap.height, MOST);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return toPlanes(context.getImageData(0, 0, width, height).data, width, height, side);
}

/** RGBA bytes of width * height as planes [3, side, side] in [0, 1], rounded to 256 steps as Pillow does. */
export function toPlanes(pixels, width, height, side) {
  const across = taps(width, side), down = taps(height, side);
  const rows = new Float32Array(3 * height * side), planes = new Float32Array(3 * side * side);
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < side; x++) {
        const { first, weights } = across[x];
        let sum = 0;
        for (let tap = 0; tap < weights.length; tap++) {
          sum += weights[tap] * pixels[4 * (y * width + first + tap) + channel];
        }
        rows[(channel * height + y) * side + x] = Math.round(sum);
      }
    }
    for (let y = 0; y < side; y++) {
      const { first, weights } = down[y];
      for (let x = 0; x < side; x++) {
        let sum = 0;
        for (let tap = 0; tap < weights.length; tap++) {
          sum += weights[tap] * rows[(channel * height + first + tap) * side + x];
        }
        planes[(channel * side + y) * side + x] = Math.round(sum) / 255;
      }
    }
  }
  return planes;
}

/** For each of `to` places, the first of `from` places it is made of, and their weights: a triangle. */
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
