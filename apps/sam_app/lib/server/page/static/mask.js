/** Masks as pictures: object numbers become coloured pixels, as in the server's overlay and contour. */

const OPAQUE = 255;

/**
 * @typedef {object} Mask
 * @property {Uint8Array} labels Object numbers, row by row; 0 is background.
 * @property {number} width
 * @property {number} height
 */

/** Return a mask's object numbers, row by row. @param {Blob} blob 8-bit grey PNG. @returns {Promise<Uint8Array>} */
export async function readMask(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const labels = new Uint8Array(width * height);
  for (let pixel = 0; pixel < labels.length; pixel += 1) labels[pixel] = data[4 * pixel];
  return labels;
}

/**
 * Return a plane's mask as it lays its pictures out.
 *
 * @param {(voxel: [number, number, number]) => number} labelAt Returns a voxel's object number.
 * @param {import("./planes.js").Plane} plane
 * @param {number} index
 * @returns {Mask}
 */
export function laidOut(labelAt, plane, index) {
  const { width, height } = plane;
  const labels = new Uint8Array(width * height);
  for (let y = 0, pixel = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, pixel += 1) labels[pixel] = labelAt(plane.toVoxel({ x, y }, index));
  }
  return { labels, width, height };
}

/**
 * Return a picture of the objects, filled.
 *
 * @param {Mask} mask
 * @param {number[][]} palette RGB by object number.
 * @param {number} opacity From 0 to 1.
 * @returns {ImageData}
 */
export function overlay({ labels, width, height }, palette, opacity) {
  const alpha = Math.round(opacity * OPAQUE);
  const colours = palette.map((rgb, label) => (label ? packed(rgb, alpha) : 0));
  return picture(width, height, (pixel) => colours[labels[pixel]]);
}

/** Return a picture of the objects' boundaries: a line in the object's colour and, for contrast, a black one inside. */
export function contour({ labels, width, height }, palette) {
  const colours = palette.map((rgb) => packed(rgb, OPAQUE));
  const black = packed([0, 0, 0], OPAQUE);
  const outer = boundary(labels, width);
  const inner = boundary(labels.map((label, pixel) => (outer[pixel] ? 0 : label)), width);
  return picture(width, height, (pixel) => (outer[pixel] ? colours[labels[pixel]] : inner[pixel] ? black : 0));
}

/** Return 1 for each pixel of an object with one of its four neighbours outside the object, else 0. */
function boundary(labels, width) {
  return labels.map((label, pixel) => {
    if (!label) return 0;
    const column = pixel % width;
    const left = column === 0 ? 0 : labels[pixel - 1];
    const right = column === width - 1 ? 0 : labels[pixel + 1];
    const above = labels[pixel - width] ?? 0;
    const below = labels[pixel + width] ?? 0;
    return left !== label || right !== label || above !== label || below !== label ? 1 : 0;
  });
}

/** Return a picture made of packed colours. */
function picture(width, height, colourOf) {
  const made = new ImageData(width, height);
  const pixels = new DataView(made.data.buffer);
  for (let pixel = 0; pixel < width * height; pixel += 1) {
    const colour = colourOf(pixel);
    if (colour) pixels.setUint32(4 * pixel, colour);
  }
  return made;
}

/** Return red, green, blue and alpha as one 32-bit number, red in the highest byte. */
function packed([red, green, blue], alpha) {
  return ((red << 24) | (green << 16) | (blue << 8) | alpha) >>> 0;
}
