// Slots to one picture. A decoder paints every slot alone, so that slots can be left away, and slots of
// another picture added, without asking the model again: only the softmax over slots is taken anew.

/**
 * Weigh layers { appearance [3 * size], logits [size] } into a picture.
 *
 * Returns reconstruction [3 * size], masks (one [size] for each layer; they sum to 1), and owner [size], the
 * layer that is seen most; null without a layer.
 */
export function compose(layers, size) {
  if (!layers.length) return null;
  const masks = layers.map(() => new Float32Array(size));
  const reconstruction = new Float32Array(3 * size), owner = new Uint8Array(size);
  for (let at = 0; at < size; at++) {
    let most = -Infinity, total = 0;
    layers.forEach(({ logits }, index) => {
      if (logits[at] > most) [most, owner[at]] = [logits[at], index];
    });
    layers.forEach(({ logits }, index) => {
      total += masks[index][at] = Math.exp(logits[at] - most);
    });
    layers.forEach(({ appearance }, index) => {
      const share = (masks[index][at] /= total);
      for (let channel = 0; channel < 3; channel++) {
        reconstruction[channel * size + at] += share * appearance[channel * size + at];
      }
    });
  }
  return { reconstruction, masks, owner };
}

/** Mean squared error in [-1, 1] units, the package's `mse`. */
export function meanSquaredError(one, other) {
  let sum = 0;
  for (let at = 0; at < one.length; at++) sum += (one[at] - other[at]) ** 2;
  return (4 * sum) / one.length;
}

/** How many layers are seen most at more than one pixel in 200. */
export function countSeen(owner, numLayers) {
  const areas = new Array(numLayers).fill(0);
  for (const index of owner) areas[index]++;
  return areas.filter((area) => area > owner.length / 200).length;
}
