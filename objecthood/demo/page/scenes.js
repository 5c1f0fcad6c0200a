// Generated scenes: two to five overlapping sprites, with the shapes and ranges of objecthood/data/generated/sprites.py.

import { uniform } from "./noise.js";
import { fromHsv } from "./palette.js";

const square = (x, y) => Math.max(Math.abs(x), Math.abs(y)) < 0.85;
const ellipse = (x, y) => (x / 1.1) ** 2 + (y / 0.7) ** 2 < 1;
const heart = (x, y) => {
  const ring = x * x + (y + 0.15) ** 2 - 1;
  return ring ** 3 < x * x * (y + 0.15) ** 3;
};

/** A scene as a function of the side in pixels: RGBA bytes of that many pixels squared. */
export function drawSprites(seed, background) {
  const draw = uniform(seed);
  const between = (low, high) => low + (high - low) * draw();
  const grey = draw();
  const backdrop = background === "coloured" ? [draw(), draw(), draw()] : [grey, grey, grey];
  const sprites = Array.from({ length: 2 + Math.floor(draw() * 4) }, () => ({
    isInside: [square, ellipse, heart][Math.floor(draw() * 3)],
    size: between(0.09, 0.18),
    angle: 2 * Math.PI * draw(),
    row: between(0.12, 0.88),
    column: between(0.12, 0.88),
    color: fromHsv(draw(), between(0.5, 1), between(0.6, 1)),
  }));
  return (side) => {
    const pixels = new Uint8ClampedArray(4 * side * side);
    for (let index = 0; index < side * side; index++) {
      const row = (Math.floor(index / side) + 0.5) / side, column = ((index % side) + 0.5) / side;
      const top = sprites.findLast((sprite) => covers(sprite, row, column));
      const color = top ? top.color : backdrop;
      pixels.set([255 * color[0], 255 * color[1], 255 * color[2], 255], 4 * index);
    }
    return pixels;
  };
}

function covers({ isInside, size, angle, row, column }, atRow, atColumn) {
  const down = atRow - row, right = atColumn - column;
  const cosine = Math.cos(angle) / size, sine = Math.sin(angle) / size;
  return isInside(cosine * right + sine * down, sine * right - cosine * down); // y points up
}
