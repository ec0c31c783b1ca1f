/** Label maps as compressed NIfTI-1 files: of the image's own voxels, i (column) fastest, then j (row), then k (frame). */

import { compressed, through } from "./png.js";

const HEADER = 352; // bytes, with the four that say that there is no extension
const MAGIC = "n+1\0";
const UINT8 = 2;
const SCANNER = 1; // the affine leads to mm of the scanner
const MM = 2;

/**
 * Return label maps as a file.
 *
 * @param {number[]} shape Columns, rows, frames.
 * @param {number[][]} affine Voxel (i, j, k, 1) to mm in RAS+.
 * @param {Iterable<[number, Uint8Array]>} frames Label maps by frame, row by row; frames without one are empty.
 * @returns {Promise<Blob>}
 */
export async function writeNifti(shape, affine, frames) {
  const [columns, rows, count] = shape;
  const bytes = new Uint8Array(HEADER + columns * rows * count);
  const header = new DataView(bytes.buffer);
  header.setInt32(0, 348, true);
  [3, columns, rows, count, 1, 1, 1, 1].forEach((size, n) => header.setInt16(40 + 2 * n, size, true));
  header.setInt16(70, UINT8, true);
  header.setInt16(72, 8, true);
  const spacing = [0, 1, 2].map((axis) => Math.hypot(...affine.slice(0, 3).map((row) => row[axis])));
  [1, ...spacing].forEach((size, n) => header.setFloat32(76 + 4 * n, size, true));
  header.setFloat32(108, HEADER, true);
  header.setFloat32(112, 1, true);
  header.setUint8(123, MM);
  header.setInt16(254, SCANNER, true);
  affine.slice(0, 3).flat().forEach((value, n) => header.setFloat32(280 + 4 * n, value, true));
  for (let n = 0; n < MAGIC.length; n += 1) header.setUint8(344 + n, MAGIC.charCodeAt(n));
  for (const [k, labels] of frames) bytes.set(labels, HEADER + k * columns * rows);
  return new Blob([await compressed(bytes, "gzip")], { type: "application/gzip" });
}

/**
 * Read label maps that the server wrote for an image.
 *
 * @param {Blob} file
 * @param {number[]} shape The image's columns, rows, frames.
 * @returns {Promise<Map<number, Uint8Array>>} Label maps by frame; those that are empty are left out.
 */
export async function readNifti(file, shape) {
  const bytes = await through(new DecompressionStream("gzip"), new Uint8Array(await file.arrayBuffer()));
  const header = new DataView(bytes.buffer);
  const sizes = [1, 2, 3].map((n) => Math.max(1, header.getInt16(40 + 2 * n, true)));
  if (sizes.some((size, n) => size !== shape[n])) throw new Error("The server's label is of another image.");
  if (header.getInt16(70, true) !== UINT8) throw new Error("The label has numbers above 255, more than this page can show.");
  const voxels = bytes.subarray(header.getFloat32(108, true));
  const size = shape[0] * shape[1];
  const frames = new Map();
  for (let k = 0; k < shape[2]; k += 1) {
    const labels = voxels.slice(k * size, (k + 1) * size);
    if (labels.some(Boolean)) frames.set(k, labels);
  }
  return frames;
}
