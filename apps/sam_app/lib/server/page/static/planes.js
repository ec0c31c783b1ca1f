/**
 * The planes of an image: which voxel each pixel of a picture is, and where in the patient that is.
 *
 * @typedef {[number, number, number]} Voxel Indices i, j, k: column, row and frame of the image as it is stored.
 * @typedef {{x: number, y: number}} Pixel Of a picture as it is shown; from the top left.
 */

const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]];

/** A plane of pictures, as the server describes it. */
export class Plane {
  /** @param {{name: string, axes: number[], flipped: boolean[], size: number[], spacing: number[], letters: string[]}} facts */
  constructor({ name, axes, flipped, size, spacing, letters }) {
    this.name = name;
    this.axes = axes;
    this.flipped = flipped;
    [this.width, this.height, this.count] = size;
    this.spacing = spacing;
    this.letters = letters;
  }

  /** Columns of a frame as it is stored; for the plane of the frames. */
  get columns() {
    return this.axes[0] === 0 ? this.width : this.height;
  }

  /** "Axial", or "Image" if the image states no position in a patient. */
  get title() {
    return this.name === "stored" ? "Image" : this.name[0].toUpperCase() + this.name.slice(1);
  }

  /** Return the voxel that a pixel of picture `index` shows. @returns {Voxel} */
  toVoxel({ x, y }, index) {
    const voxel = [0, 0, 0];
    voxel[this.axes[0]] = this.flipped[0] ? this.width - 1 - x : x;
    voxel[this.axes[1]] = this.flipped[1] ? this.height - 1 - y : y;
    voxel[this.axes[2]] = index;
    return voxel;
  }

  /** Return the pixel and the picture that show a voxel. @returns {Pixel & {index: number}} */
  toPixel(voxel) {
    const [across, down, index] = this.axes.map((axis) => voxel[axis]);
    return {
      x: this.flipped[0] ? this.width - 1 - across : across,
      y: this.flipped[1] ? this.height - 1 - down : down,
      index,
    };
  }
}

/** Return the place of a voxel's centre in the patient, mm in RAS+; null if it is not known. */
export function placeOf({ affine, positions }, [i, j, k]) {
  if (!affine) return null;
  return [0, 1, 2].map((axis) => {
    const [across, down, through, origin] = affine[axis];
    return across * i + down * j + (positions ? positions[k][axis] : through * k + origin);
  });
}

/** "R 12.3  P 4.0  S 118.4 mm" */
export function describePlace(place) {
  const parts = place.map((mm, axis) => `${ENDS[axis][mm < 0 ? 0 : 1]} ${Math.abs(mm).toFixed(1)}`);
  return `${parts.join("  ")} mm`;
}
