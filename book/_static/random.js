// Random numbers, the same for the same seed.

/** Uniform numbers from 0 to 1 (xorshift, Marsaglia 2003). */
export function uniform(seed) {
  let state = Math.imul(seed + 1, 2654435761) | 1;  // never zero, where it would stay
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** A draw of z from the prior (Box & Muller 1958). */
export function normal(length, random = Math.random) {
  return Array.from({ length }, () =>
    Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()));
}
