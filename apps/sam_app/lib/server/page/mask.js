/** Masks as pictures: object numbers to coloured pixels, as the server's overlay and contour colour them. */

const ALPHA = 128;

/**
 * The object numbers of a mask PNG.
 *
 * @param {Blob} blob 8-bit grey PNG.
 * @returns {Promise<{labels: Uint8Array, width: number, height: number}>} Row by row; 0 is background.
 */
export async function readMask(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const labels = new Uint8Array(width * height);
  for (let pixel = 0; pixel < labels.length; pixel += 1) labels[pixel] = data[4 * pixel];
  return { labels, width, height };
}

/**
 * The objects filled, half transparent.
 *
 * @param {{labels: Uint8Array, width: number, height: number}} mask
 * @param {number[][]} palette RGB by object number.
 * @returns {ImageData}
 */
export function overlay({ labels, width, height }, palette) {
  const picture = new ImageData(width, height);
  for (let pixel = 0; pixel < labels.length; pixel += 1) {
    if (labels[pixel]) paint(picture, pixel, palette[labels[pixel]], ALPHA);
  }
  return picture;
}

/** The objects' boundaries: a line in the object's colour and a black one within it, so that one stands out. */
export function contour({ labels, width, height }, palette) {
  const picture = new ImageData(width, height);
  const outer = boundary(labels, width);
  const core = labels.map((label, pixel) => (outer[pixel] ? 0 : label));
  const inner = boundary(core, width);
  for (let pixel = 0; pixel < labels.length; pixel += 1) {
    if (outer[pixel]) paint(picture, pixel, palette[labels[pixel]], 255);
    else if (inner[pixel]) paint(picture, pixel, [0, 0, 0], 255);
  }
  return picture;
}

/** Which pixels of objects have one of their four neighbours outside it. */
function boundary(labels, width) {
  const last = width - 1;
  return labels.map((label, pixel) => {
    if (!label) return 0;
    const column = pixel % width;
    const left = column === 0 ? 0 : labels[pixel - 1];
    const right = column === last ? 0 : labels[pixel + 1];
    const above = labels[pixel - width] ?? 0;
    const below = labels[pixel + width] ?? 0;
    return left !== label || right !== label || above !== label || below !== label ? 1 : 0;
  });
}

function paint(picture, pixel, [red, green, blue], alpha) {
  picture.data.set([red, green, blue, alpha], 4 * pixel);
}
