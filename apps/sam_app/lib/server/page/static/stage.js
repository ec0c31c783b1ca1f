/** Display of a frame of the image with its mask, prompts and crosshair. */

import { Edges } from "./edges.js";
import { drawMarks } from "./marks.js";
import { contour, laidOut, overlay } from "./mask.js";
import { Zoom } from "./zoom.js";

const GRIP = 9; // screen pixels from a mark within which it is taken hold of

const HINT = [255, 255, 255];

const SMALL = 96; // screen pixels of the longer side of a small picture
const SMALL_MARGIN = 0.25; // of the mask's size on each side
const SMALL_OPACITY = 0.5;

export class Stage {
  #svg = document.getElementById("marks");
  #imageCanvas = document.getElementById("image");
  #maskCanvas = document.getElementById("mask");
  #hintCanvas = document.getElementById("hint");
  #edges = new Edges(document.getElementById("main-pane"));
  #palette;
  #mask = null;
  #labels = null;
  #hidden = "";
  #view = "overlay";
  #opacity = 0.5;
  #prompts = [];
  #moving = null;

  /** @param {number[][]} palette RGB by object number. */
  constructor(palette) {
    this.#palette = palette;
    this.element = document.getElementById("stage");
    this.size = { width: 0, height: 0 };
    /** The plane of the displayed image's frames. @type {import("./planes.js").Plane | null} */
    this.plane = null;
    /** The displayed frame of it. @type {number | null} */
    this.index = null;
    /** Pixel of the picture. @type {{x: number, y: number}} */
    this.crosshair = { x: 0, y: 0 };
    /** Whether the crosshair is shown: while the keyboard is used, and where other planes are shown beside. */
    this.isCrosshairSeen = false;
    this.isCrosshairLinked = false;
    /** A prompt that is being drawn, in pixels of the picture. @type {object | null} */
    this.draft = null;
    /** Where the brush is, and its size; null: there is none. @type {{x: number, y: number, size: number} | null} */
    this.brush = null;
    this.zoom = new Zoom(document.getElementById("viewport"), this.element);
    this.zoom.addEventListener("change", () => this.draw());
  }

  /** Whether there is an image. */
  get hasImage() {
    return this.plane !== null;
  }

  /**
   * Show a frame.
   *
   * @param {import("./planes.js").Plane} plane
   * @param {number} index
   * @param {ImageData} picture
   * @param {boolean} isGeometric Whether the spacing is in mm of a patient.
   */
  showPicture(plane, index, picture, isGeometric) {
    if (plane !== this.plane) this.#begin(plane, isGeometric);
    this.index = index;
    this.#imageCanvas.getContext("2d").putImageData(picture, 0, 0);
  }

  /**
   * Show the frame's label map.
   *
   * @param {Uint8Array} labels Object numbers, as the frame is stored.
   * @param {Set<number>} hidden Objects that are not shown.
   */
  showLabels(labels, hidden) {
    const now = [...hidden].join();
    if (labels !== this.#labels || now !== this.#hidden) {
      [this.#labels, this.#hidden] = [labels, now];
      const columns = this.plane.columns;
      this.#mask = laidOut(([i, j]) => {
        const label = labels[j * columns + i];
        return hidden.has(label) ? 0 : label;
      }, this.plane, this.index);
      this.#drawMask();
    }
    this.draw();
  }

  /** Show the border of what a click would mark. @param {Uint8Array | null} mask Of the frame: not 0 on it. */
  showHint(mask) {
    const context = this.#hintCanvas.getContext("2d");
    context.clearRect(0, 0, this.#hintCanvas.width, this.#hintCanvas.height);
    if (!mask) return;
    const { columns } = this.plane;
    const shown = laidOut(([i, j]) => (mask[j * columns + i] ? 1 : 0), this.plane, this.index);
    context.putImageData(contour(shown, [[0, 0, 0], HINT]), 0, 0);
  }

  /** How masks are shown. @returns {(mask: import("./mask.js").Mask) => ImageData | null} */
  get painter() {
    if (this.#view === "image") return () => null;
    if (this.#view === "contour") return (mask) => contour(mask, this.#palette);
    return (mask) => overlay(mask, this.#palette, this.#opacity);
  }

  /** @param {"overlay" | "contour" | "image"} view @param {number} opacity Of the overlay, from 0 to 1. */
  setView(view, opacity) {
    [this.#view, this.#opacity] = [view, opacity];
    this.#drawMask();
  }

  /** @param {object[]} prompts As in `Session`. */
  setPrompts(prompts) {
    this.#prompts = prompts;
    this.draw();
  }

  /**
   * Return a small picture of a mask on the shown frame, cut out around several masks.
   *
   * @param {Uint8Array} mask Of the frame as it is stored: not 0 on the object.
   * @param {Uint8Array[]} masks
   * @param {number} number The object's, for its colour.
   * @returns {HTMLCanvasElement}
   */
  small(mask, masks, number) {
    const { columns } = this.plane;
    const isIn = ([i, j]) => masks.some((one) => one[j * columns + i]);
    const union = laidOut((voxel) => (isIn(voxel) ? 1 : 0), this.plane, this.index);
    const shown = laidOut(([i, j]) => (mask[j * columns + i] ? number : 0), this.plane, this.index);
    const drawn = new OffscreenCanvas(this.size.width, this.size.height);
    drawn.getContext("2d").putImageData(overlay(shown, this.#palette, SMALL_OPACITY), 0, 0);
    const { x, y, width, height } = around(union, SMALL_MARGIN);
    const { scale } = this.zoom;
    const enlarged = SMALL / Math.max(width * scale.x, height * scale.y);
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(width * scale.x * enlarged));
    canvas.height = Math.max(1, Math.round(height * scale.y * enlarged));
    canvas.className = "small";
    canvas.setAttribute("aria-hidden", "true");
    const context = canvas.getContext("2d");
    for (const layer of [this.#imageCanvas, drawn]) {
      context.drawImage(layer, x, y, width, height, 0, 0, canvas.width, canvas.height);
    }
    return canvas;
  }

  /** Set the descriptions of the pictures for assistive technology. */
  describe(image, mask) {
    this.#imageCanvas.setAttribute("aria-label", image);
    this.#maskCanvas.setAttribute("aria-label", mask);
  }

  /** Return the pixel at a position on screen; for a position outside, the nearest one. */
  pixelAt({ clientX, clientY }) {
    const { left, top } = this.element.getBoundingClientRect();
    const { scale } = this.zoom;
    return this.within({ x: Math.floor((clientX - left) / scale.x), y: Math.floor((clientY - top) / scale.y) });
  }

  /** Return the nearest pixel inside the picture. */
  within({ x, y }) {
    const clamp = (value, size) => Math.max(0, Math.min(size - 1, value));
    return { x: clamp(x, this.size.width), y: clamp(y, this.size.height) };
  }

  /** Return a pixel of the picture as a prompt has it: column and row of the frame as it is stored. */
  stored(pixel) {
    const [x, y] = this.plane.toVoxel(pixel, this.index);
    return { x, y };
  }

  /** Return a prompt of the picture as the frame is stored. */
  storedPrompt(prompt) {
    return turned(prompt, (pixel) => this.stored(pixel));
  }

  /** Return a prompt moved by pixels of the picture, as the frame is stored; null if it would leave the picture. */
  shiftedPrompt(prompt, [right, down]) {
    const shown = this.#shownPrompt(prompt);
    const isIn = ({ x, y }) => x >= 0 && y >= 0 && x < this.size.width && y < this.size.height;
    const shifted = turned(shown, ({ x, y }) => ({ x: x + right, y: y + down }));
    return cornersOf(shifted).every(isIn) ? this.storedPrompt(shifted) : null;
  }

  /**
   * Return the point, or the corner of a box, at a position on screen; null: there is none.
   *
   * @returns {{index: number, to: (pixel: {x: number, y: number}) => object} | null} Which prompt it is, and what it
   *   becomes when it is moved to a pixel of the picture.
   */
  gripAt({ clientX, clientY }) {
    const { left, top } = this.element.getBoundingClientRect();
    const { scale } = this.zoom;
    const isNear = ({ x, y }) => Math.hypot((x + 0.5) * scale.x - clientX + left, (y + 0.5) * scale.y - clientY + top) <= GRIP;
    for (let index = this.#prompts.length - 1; index >= 0; index -= 1) {
      const prompt = this.#shownPrompt(this.#prompts[index]);
      if (prompt.points) continue;
      const corners = cornersOf(prompt);
      const n = corners.findIndex(isNear);
      if (n < 0) continue;
      const opposite = corners[(n + 2) % 4];
      return { index, to: (pixel) => ({ ...prompt, ...(opposite ? boxBetween(opposite, pixel) : pixel) }) };
    }
    return null;
  }

  /** Show a prompt where it would be moved to; null: none is moved. */
  showMoving(grip, pixel) {
    this.#moving = grip?.index ?? null;
    this.draft = grip?.to(pixel) ?? null;
    this.draw();
  }

  #shownPrompt(prompt) {
    return turned(prompt, ({ x, y }) => this.plane.toPixel([x, y, 0]));
  }

  /** Draw prompts, crosshair and the box that is being drawn. */
  draw() {
    if (!this.hasImage) return;
    const { scale } = this.zoom;
    drawMarks(this.#svg, {
      ...this.size,
      scale,
      prompts: this.#prompts.filter((_, n) => n !== this.#moving).map((prompt) => this.#shownPrompt(prompt)),
      draft: this.draft,
      brush: this.brush,
      crosshair: this.isCrosshairSeen || this.isCrosshairLinked ? this.crosshair : null,
    });
    this.#edges.show(this.plane.letters, this.isGeometric ? scale.x / this.plane.spacing[0] : null);
  }

  #begin(plane, isGeometric) {
    const { width, height } = plane;
    for (const canvas of [this.#imageCanvas, this.#maskCanvas, this.#hintCanvas]) Object.assign(canvas, { width, height });
    [this.#mask, this.#labels] = [null, null];
    this.plane = plane;
    this.isGeometric = isGeometric;
    this.size = { width, height };
    this.crosshair = { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    this.element.hidden = false;
    this.zoom.setSize(this.size, plane.spacing);
  }

  #drawMask() {
    const context = this.#maskCanvas.getContext("2d");
    const drawn = this.#mask && this.painter(this.#mask);
    if (drawn) context.putImageData(drawn, 0, 0);
    else context.clearRect(0, 0, this.#maskCanvas.width, this.#maskCanvas.height);
  }
}

/** Return a prompt with each of its pixels replaced. */
function turned(prompt, turn) {
  if (prompt.points) return { ...prompt, points: prompt.points.map(turn).map(({ x, y }) => ({ x, y })) };
  const { x, y, width, height } = prompt;
  if (prompt.kind === "box") return { ...prompt, ...boxBetween(turn({ x, y }), turn({ x: x + width, y: y + height })) };
  const at = turn({ x, y });
  return { ...prompt, x: at.x, y: at.y };
}

/** Return the part of a picture around a mask, with a margin as a part of its size; all of it if the mask is empty. */
function around({ labels, width, height }, margin) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  labels.forEach((label, pixel) => {
    if (!label) return;
    const [x, y] = [pixel % width, Math.floor(pixel / width)];
    [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
  });
  if (right < 0) return { x: 0, y: 0, width, height };
  const more = Math.ceil(Math.max(right - left, bottom - top) * margin) + 1;
  [left, top] = [Math.max(0, left - more), Math.max(0, top - more)];
  [right, bottom] = [Math.min(width, right + 1 + more), Math.min(height, bottom + 1 + more)];
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/** Return a box's corners in turn, a point, or the points of a line. */
function cornersOf({ kind, x, y, width, height, points }) {
  if (kind !== "box") return points ?? [{ x, y }];
  return [{ x, y }, { x: x + width, y }, { x: x + width, y: y + height }, { x, y: y + height }];
}

/** Return the box between two opposite corners. */
function boxBetween(one, other) {
  const [x, y] = [Math.min(one.x, other.x), Math.min(one.y, other.y)];
  return { x, y, width: Math.abs(one.x - other.x), height: Math.abs(one.y - other.y) };
}
