// A reader's drawing as an image. A stroke is a list of points [x, y], whole numbers from 1 to 255.

import { make, SIDE } from "./elements.js";

/** Strokes as an image, scaled and centered by mass as MNIST's digits are. */
export function rasterized(strokes) {
  const [xs, ys] = [0, 1].map((axis) => strokes.flat().map((point) => point[axis]));
  const middle = [xs, ys].map((all) => (Math.min(...all) + Math.max(...all)) / 2);
  const scale = 18 / Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), 18);
  const canvas = make("canvas", { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let center = [SIDE / 2, SIDE / 2], image;
  for (let pass = 0; pass < 2; pass++) {
    const shift = center.map((at) => SIDE - at);
    context.fillRect(0, 0, SIDE, SIDE);
    trace(context, strokes, ([x, y]) => [(x - middle[0]) * scale + shift[0], (y - middle[1]) * scale + shift[1]], 2.4);
    const { data } = context.getImageData(0, 0, SIDE, SIDE);
    image = Float32Array.from({ length: SIDE * SIDE }, (_, n) => data[4 * n] / 255);
    const mass = image.reduce((a, b) => a + b);
    center = [(n) => n % SIDE, (n) => Math.floor(n / SIDE)].map((along) =>
      image.reduce((sum, value, n) => sum + value * (along(n) + 0.5), 0) / mass);
  }
  return image;
}

export function trace(context, strokes, place, width) {
  Object.assign(context, { strokeStyle: "white", lineWidth: width, lineCap: "round", lineJoin: "round" });
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...place(stroke[0]));
    // A single point is a line too short to see, but with round ends.
    for (const [x, y] of stroke) context.lineTo(...place([x + 0.01, y]));
    context.stroke();
  }
}
