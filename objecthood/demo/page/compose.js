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

/** How badly planes [3 * size] are painted, by the measures of objecthood/analysis/out_of_distribution.py, in [-1, 1] units. */
export function errors(painted, planes) {
  const size = planes.length / 3, rest = new Float32Array(size);
  let whole = 0;
  for (let channel = 0; channel < 3; channel++) {
    let mean = 0;
    for (let at = channel * size; at < (channel + 1) * size; at++) {
      const error = 2 * (painted[at] - planes[at]);
      mean += error / size;
      whole += error ** 2 / (3 * size);
    }
    for (let at = 0; at < size; at++) {
      rest[at] += (2 * (painted[channel * size + at] - planes[channel * size + at]) - mean) ** 2 / 3;
    }
  }
  return { "reconstruction error": whole, "error of most pixels": rest.sort()[Math.floor(0.75 * (size - 1))] };
}

/** How many layers are seen most at more than one pixel in 200. */
export function countSeen(owner, numLayers) {
  const areas = new Array(numLayers).fill(0);
  for (const index of owner) areas[index]++;
  return areas.filter((area) => area > owner.length / 200).length;
}
