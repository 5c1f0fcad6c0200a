// Composite decoded slots into an image. Slots are decoded independently, so hiding a slot or adding one of another
// image only needs a new softmax over slots.

/**
 * Composite layers { appearance [3 * size], logits [size] }.
 *
 * Returns reconstruction [3 * size], masks (one [size] per layer; they sum to 1) and owner [size], the layer with the
 * largest mask; null without layers.
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

/** Errors of a reconstruction of planes [3 * size], in [-1, 1] units, as in objecthood/analysis/out_of_distribution.py. */
export function errors(reconstruction, planes) {
  const size = planes.length / 3, rest = new Float32Array(size);
  let whole = 0;
  for (let channel = 0; channel < 3; channel++) {
    let mean = 0;
    for (let at = channel * size; at < (channel + 1) * size; at++) {
      const error = 2 * (reconstruction[at] - planes[at]);
      mean += error / size;
      whole += error ** 2 / (3 * size);
    }
    for (let at = 0; at < size; at++) {
      rest[at] += (2 * (reconstruction[channel * size + at] - planes[channel * size + at]) - mean) ** 2 / 3;
    }
  }
  return { "reconstruction error": whole, "error of most pixels": rest.sort()[Math.floor(0.75 * (size - 1))] };
}

/** The number of layers that have the largest mask at more than one pixel in 200. */
export function countSeen(owner, numLayers) {
  const areas = new Array(numLayers).fill(0);
  for (const index of owner) areas[index]++;
  return areas.filter((area) => area > owner.length / 200).length;
}
