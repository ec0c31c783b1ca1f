/** An image on the server: its facts, and its slices, which are fetched when they are needed or about to be. */

import { Plane } from "./planes.js";

const MOST_BYTES = 256 * 2 ** 20;
const AHEAD = [1, 2, 3, -1, 4, 5, 6, -2]; // slices that are fetched beside a shown one, in the direction of scrolling

const ARRAYS = {
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  float32: Float32Array,
  float64: Float64Array,
};

export class ViewedImage {
  #api;
  #slices = new Map(); // promises of arrays, the longest unused first
  #last = new Map();

  /**
   * @param {import("./api.js").Api} api
   * @param {string} path Of the image on the server.
   * @param {object} facts What the server says of it, `ViewedImage` as in `/docs`.
   */
  constructor(api, path, facts) {
    this.#api = api;
    /** Of the image on the server; another if it had to be sent again. */
    this.path = path;
    this.facts = facts;
    /** The first is that of the frames. @type {Plane[]} */
    this.planes = facts.planes.map((plane) => new Plane(plane));
  }

  get isFloat() {
    return this.facts.dtype.startsWith("float");
  }

  /**
   * Return a slice's values, row by row as its plane lays them out; of a coloured image red, green, blue by turns.
   *
   * @param {Plane} plane
   * @param {number} index
   * @returns {Promise<ArrayLike<number>>}
   */
  slice(plane, index) {
    const key = `${plane.name}/${index}`;
    const known = this.#slices.get(key) ?? this.#fetch(key);
    this.#slices.delete(key);
    this.#slices.set(key, known);
    return known;
  }

  /** Fetch the slices beside one that is shown, one after the other, until another one is shown. */
  async prefetch(plane, index) {
    const before = this.#last.get(plane)?.index ?? index;
    const turn = { index };
    this.#last.set(plane, turn);
    const direction = index < before ? -1 : 1;
    for (const step of AHEAD) {
      const next = index + step * direction;
      if (next < 0 || next >= plane.count) continue;
      await this.slice(plane, next).catch(() => null); // whoever shows it reports the error
      if (this.#last.get(plane) !== turn) return;
    }
  }

  async #fetch(key) {
    const { dtype, version } = this.facts;
    try {
      const bytes = await this.#api.bytes(`${this.path}/slices/${key}?version=${version}`);
      this.#forget(bytes.byteLength);
      return new ARRAYS[dtype](bytes);
    } catch (error) {
      this.#slices.delete(key);
      throw error;
    }
  }

  /** Forget the slices that were not used for the longest time, if there are more than fit. */
  #forget(bytes) {
    const most = Math.max(16, Math.floor(MOST_BYTES / bytes));
    for (const key of this.#slices.keys()) {
      if (this.#slices.size <= most) return;
      this.#slices.delete(key);
    }
  }
}
