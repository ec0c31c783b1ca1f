/**
 * Values as pictures, by a window or a table: DICOM PS3.3 C.11.2, as the server does it for a model.
 *
 * @typedef {{center: number, width: number, function: "LINEAR" | "LINEAR_EXACT" | "SIGMOID"}} Window
 */

/**
 * Return a slice as a picture.
 *
 * @param {ArrayLike<number>} values
 * @param {{width: number, height: number}} size
 * @param {object} facts The image's, as the server sends them.
 * @param {Window | null} window Null: as the server shows the image at first.
 * @returns {ImageData}
 */
export function picture(values, { width, height }, facts, window) {
  const made = new ImageData(width, height);
  if (facts.colour) {
    const { data } = made;
    for (let to = 0, from = 0; to < data.length; to += 4, from += 3) {
      data[to] = values[from];
      data[to + 1] = values[from + 1];
      data[to + 2] = values[from + 2];
      data[to + 3] = 255;
    }
    return made;
  }
  const grey = scale(facts.shown, window);
  const { inverted, padding } = facts.shown;
  const [low, high] = padding ?? [Infinity, -Infinity];
  const pixels = new Uint32Array(made.data.buffer);
  const opaque = new DataView(new Uint8Array([0, 0, 0, 255]).buffer).getUint32(0, true);
  for (let pixel = 0; pixel < pixels.length; pixel += 1) {
    const value = values[pixel];
    let level = grey(value);
    if (inverted) level = 255 - level;
    if (value >= low && value <= high) level = 0;
    pixels[pixel] = (opaque | (level << 16) | (level << 8) | level) >>> 0;
  }
  return made;
}

/** Return the window that the server shows the image with at first; null if there is none. @returns {Window | null} */
export function firstWindow({ shown: { center, width, function: name } }) {
  return center === null ? null : { center, width, function: name };
}

/** Return the function from a value to its grey level, 0 to 255. */
function scale(shown, chosen) {
  const window = chosen ?? firstWindow({ shown });
  if (!window && shown.table) {
    const table = Uint8Array.from(atob(shown.table), (character) => character.charCodeAt(0));
    return (value) => table[Math.max(0, Math.min(table.length - 1, Math.round(value - shown.table_first)))];
  }
  if (!window) return (value) => value;
  const { center, width, function: name } = window;
  const level = (share) => Math.floor(Math.max(0, Math.min(1, share)) * 255 + 0.5);
  if (name === "SIGMOID") return (value) => level(1 / (1 + Math.exp((-4 * (value - center)) / width)));
  if (name === "LINEAR_EXACT") return (value) => level((value - center) / width + 0.5);
  if (width === 1) return (value) => (value > center - 0.5 ? 255 : 0);
  return (value) => level((value - (center - 0.5)) / (width - 1) + 0.5);
}
