// Elements that more than one module makes.

export const SIDE = 28;

/** An element with its properties, attributes and children. */
export function make(tag, { attributes = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Draw an image, 784 pixels from 0 to 1, on a canvas, from this column of pixels on. */
export function paint(canvas, image, left = 0) {
  const context = canvas.getContext("2d");
  const picture = context.createImageData(SIDE, SIDE);
  image.forEach((value, n) => picture.data.fill(255 * value, 4 * n, 4 * n + 3).fill(255, 4 * n + 3, 4 * n + 4));
  context.putImageData(picture, left, 0);
}
