/** Display of the image with its mask, prompts and crosshair. */

import { drawMarks } from "./marks.js";
import { contour, overlay, readMask } from "./mask.js";
import { Zoom } from "./zoom.js";

export class Stage {
  #svg = document.getElementById("marks");
  #imageCanvas = document.getElementById("image");
  #maskCanvas = document.getElementById("mask");
  #palette;
  #wantedImage = null;
  #wantedMask = null;
  #drawnMask = null;
  #mask = null;
  #view = "overlay";
  #prompts = [];

  /** @param {number[][]} palette RGB by object number. */
  constructor(palette) {
    this.#palette = palette;
    this.element = document.getElementById("stage");
    this.size = { width: 0, height: 0 };
    /** @type {Blob | null} The displayed image. */
    this.image = null;
    /** @type {{x: number, y: number}} */
    this.crosshair = { x: 0, y: 0 };
    this.isCrosshairSeen = false;
    /** @type {{x: number, y: number, width: number, height: number} | null} A box that is being drawn. */
    this.draft = null;
    this.zoom = new Zoom(document.getElementById("viewport"), this.element);
    this.zoom.addEventListener("change", () => this.draw());
  }

  /** Whether there is an image. */
  get hasImage() {
    return this.size.width > 0;
  }

  /**
   * Show a result. Of overlapping calls only the last one takes effect, however long decoding takes.
   *
   * @param {Blob} image PNG.
   * @param {Blob | null} mask PNG of object numbers.
   */
  async show(image, mask) {
    const [isNewImage, isNewMask] = [image !== this.image, mask !== this.#drawnMask];
    this.#wantedImage = image;
    this.#wantedMask = mask;
    const [bitmap, labels] = await Promise.all([
      isNewImage ? createImageBitmap(image) : null,
      isNewMask && mask ? readMask(mask) : null,
    ]);
    if (image !== this.#wantedImage || mask !== this.#wantedMask) return;
    if (bitmap) this.#showImage(bitmap);
    if (isNewMask) this.#mask = labels;
    this.image = image;
    this.#drawnMask = mask;
    this.#drawMask();
    this.draw();
  }

  /** @param {"overlay" | "contour" | "image"} view */
  setView(view) {
    this.#view = view;
    this.#drawMask();
  }

  /** @param {object[]} prompts As in `Session`. */
  setPrompts(prompts) {
    this.#prompts = prompts;
    this.draw();
  }

  /** Return the displayed mask's number of pixels by object. @returns {number[]} One number per object. */
  areas(objects) {
    return this.#mask?.areas.slice(1, objects + 1) ?? [];
  }

  /** Set the descriptions of the pictures for assistive technology. */
  describe(image, mask) {
    this.#imageCanvas.setAttribute("aria-label", image);
    this.#maskCanvas.setAttribute("aria-label", mask);
  }

  /** Return the image pixel at a position on screen; for a position outside, the nearest one. */
  pixelAt({ clientX, clientY }) {
    const { left, top } = this.element.getBoundingClientRect();
    const { scale } = this.zoom;
    return this.within({ x: Math.floor((clientX - left) / scale), y: Math.floor((clientY - top) / scale) });
  }

  /** Return the nearest pixel inside the image. */
  within({ x, y }) {
    const clamp = (value, size) => Math.max(0, Math.min(size - 1, value));
    return { x: clamp(x, this.size.width), y: clamp(y, this.size.height) };
  }

  /** Draw prompts, crosshair and the box that is being drawn. */
  draw() {
    if (!this.hasImage) return;
    drawMarks(this.#svg, {
      ...this.size,
      scale: this.zoom.scale,
      prompts: this.#prompts,
      draft: this.draft,
      crosshair: this.isCrosshairSeen ? this.crosshair : null,
    });
  }

  #showImage(bitmap) {
    const { width, height } = bitmap;
    const isNewSize = width !== this.size.width || height !== this.size.height;
    for (const canvas of [this.#imageCanvas, this.#maskCanvas]) {
      if (isNewSize) Object.assign(canvas, { width, height });
    }
    this.size = { width, height };
    this.#imageCanvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    if (isNewSize) this.crosshair = { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    this.element.hidden = false;
    this.zoom.setSize(this.size);
  }

  #drawMask() {
    const context = this.#maskCanvas.getContext("2d");
    context.clearRect(0, 0, this.#maskCanvas.width, this.#maskCanvas.height);
    if (!this.#mask || this.#view === "image") return;
    const draw = this.#view === "contour" ? contour : overlay;
    context.putImageData(draw(this.#mask, this.#palette), 0, 0);
  }
}
