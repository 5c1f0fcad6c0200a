// Seeded random numbers.

/** A generator of uniform numbers in [0, 1) (mulberry32, T. Ettinger). */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** `count` standard normal numbers (Box and Muller 1958). */
export function normal(seed, count) {
  const draw = uniform(seed);
  return Float32Array.from({ length: count }, () =>
    Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw()));
}
