// The colour of each slot: the same as in the package's figures (objecthood/visualize/figures.py, BASE_COLORS).

const BASE = [
  [0x3a, 0x57, 0xff], [0xe8, 0x88, 0x1a], [0x25, 0xc0, 0x85], [0xcc, 0x2c, 0x3a],
  [0xff, 0xe9, 0x70], [0x35, 0x9e, 0xff], [0xe6, 0xae, 0xe4], [0x70, 0x76, 0x8a],
];

/** RGB in 0..255 of slot `index`; from the ninth slot on, hues advance by the golden ratio. */
export function slotColor(index) {
  if (index < BASE.length) return BASE[index];
  const hue = (index * 0.6180339887) % 1;
  const [saturation, value] = [[0.85, 0.65], [0.45, 0.95], [0.65, 0.8]][index % 3];
  return fromHsv(hue, saturation, value).map((part) => Math.round(255 * part));
}

/** RGB in [0, 1] of hue, saturation and value in [0, 1] (Smith 1978). */
export function fromHsv(hue, saturation, value) {
  return [5, 3, 1].map((offset) => {
    const sector = (hue * 6 + offset) % 6;
    return value * (1 - saturation * Math.min(1, Math.max(0, Math.min(sector, 4 - sector))));
  });
}

export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
