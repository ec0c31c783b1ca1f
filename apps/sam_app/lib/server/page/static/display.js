/** Display of the image: the wanted frame, the other planes through the same point, and the window for looking. */

import { firstWindow, picture } from "./greys.js";
import { describePlace, placeOf } from "./planes.js";
import { laidOut } from "./mask.js";
import { SidePane } from "./side_pane.js";
import { describeValue } from "./words.js";

const WHOLE_RANGE = 500; // screen pixels of dragging that double the width of the window

export class Display extends EventTarget {
  #session;
  #stage;
  #side = document.getElementById("side-panes");
  #panes = [];
  #image = null;
  #values = null;
  #window = null;
  #turn = 0;
  #labels = new Map();
  #hidden = new Set();
  #small = new WeakMap();

  /** @param {import("./session.js").Session} session @param {import("./stage.js").Stage} stage */
  constructor(session, stage) {
    super();
    this.#session = session;
    this.#stage = stage;
  }

  /** The window for looking; null: as the image is shown at first. @type {import("./greys.js").Window | null} */
  get window() {
    return this.#window;
  }

  /** Look through another window; what a model sees stays as it is. */
  setWindow(window) {
    this.#window = window;
    this.#paint();
    this.#showSides();
    this.dispatchEvent(new Event("window"));
  }

  /** Move and widen the window by a drag over so many screen pixels: right for wider, down for darker. */
  dragWindow(right, down) {
    const window = this.#window ?? (this.#image && firstWindow(this.#image.facts));
    if (!window) return;
    const center = window.center + (down * window.width) / WHOLE_RANGE;
    const width = window.width * 2 ** (right / WHOLE_RANGE);
    this.setWindow(this.windowOf(center, this.#image.isFloat ? width : Math.max(1, width)));
  }

  /** Return a window that a user chose, with the function that suits the image's values. */
  windowOf(center, width) {
    const name = this.#image?.isFloat || width < 1 ? "LINEAR_EXACT" : "LINEAR";
    return { center, width, function: name };
  }

  /** Whether the displayed picture is the wanted one; prompts on another would be wrong. */
  get isCurrent() {
    const { image, wanted } = this.#session;
    return image !== null && image === this.#image && this.#stage.index === wanted.frame;
  }

  /** Show the wanted frame of the session's image. Of overlapping calls only the last one takes effect. */
  async showFrame() {
    const { image, wanted } = this.#session;
    const plane = image.planes[0];
    this.#turn += 1;
    if (image === this.#image && wanted.frame === this.#stage.index) return;
    const turn = this.#turn;
    const values = await this.#session.slice(image, plane, wanted.frame);
    if (turn !== this.#turn) return;
    const isNew = image !== this.#image;
    this.#values = values;
    if (isNew) this.#begin(image);
    this.#paint(wanted.frame);
    this.#showSides();
    if (isNew) this.dispatchEvent(new Event("window"));
    image.prefetch(plane, wanted.frame);
  }

  /** Show the masks of the frame and of the other planes. @param {Uint8Array} [drawn] The frame's, while one draws. */
  showMasks(drawn) {
    const { annotation, wanted } = this.#session;
    if (!this.isCurrent) return;
    this.#hidden = new Set(annotation.items.filter((item) => item.isHidden).map(({ number }) => number));
    this.#stage.showLabels(drawn ?? this.#session.seen(wanted.frame), this.#hidden);
    if (drawn) return;
    this.#labels = new Map(this.#session.labels);
    for (const pane of this.#panes) if (pane.isShown) this.#showSideMask(pane);
  }

  /** Show masks in another way: as an overlay, as contours, or not. */
  setView(view, opacity) {
    this.#stage.setView(view, opacity);
    for (const pane of this.#panes) if (pane.isShown) this.#showSideMask(pane);
  }

  #showSideMask(pane) {
    const { plane, index } = pane;
    const { columns } = this.#image.planes[0];
    const mask = laidOut(([i, j, k]) => {
      const label = this.#labels.get(k)?.[j * columns + i] ?? 0;
      return this.#hidden.has(label) ? 0 : label;
    }, plane, index);
    pane.showMask(this.#stage.painter(mask));
  }

  /** Show the other planes through the crosshair. */
  async #showSides() {
    const image = this.#image;
    const stage = this.#stage;
    if (!this.#panes.length) return;
    const voxel = image.planes[0].toVoxel(stage.crosshair, stage.index);
    stage.draw();
    await Promise.all(this.#panes.map((pane) => this.#showSide(image, pane, voxel)));
  }

  async #showSide(image, pane, voxel) {
    const { plane } = pane;
    const pixel = plane.toPixel(voxel);
    pane.wanted = pixel;
    const values = await this.#session.slice(image, plane, pixel.index).catch(() => null);
    if (!values || pane.wanted !== pixel || image !== this.#image) return;
    pane.show(picture(values, plane, image.facts, this.#window), pixel);
    this.#showSideMask(pane);
    image.prefetch(plane, pixel.index);
  }

  /**
   * Return a small picture of a candidate's mask, cut out around all of them; none before all are there.
   *
   * @param {import("./session.js").Result} result On the displayed frame.
   * @param {number} candidate Its rank.
   * @param {number} count Of candidates.
   * @param {number} number The object's, for its colour.
   * @returns {HTMLCanvasElement[]}
   */
  small({ masks }, candidate, count, number) {
    if (!this.isCurrent || masks.size < count) return [];
    const mask = masks.get(candidate);
    if (!this.#small.has(mask)) this.#small.set(mask, this.#stage.small(mask, [...masks.values()], number));
    return [this.#small.get(mask)];
  }

  /** Return a prompt moved by pixels of the picture; null if it cannot be moved there. */
  shiftedPrompt(prompt, step) {
    return this.isCurrent ? this.#stage.shiftedPrompt(prompt, step) : null;
  }

  /** The crosshair on the frame was moved: show the other planes through it. */
  crosshairMoved() {
    this.#showSides();
  }

  /** Return the mean value of an object's pixels on the frame; null for a coloured image. @param {Uint8Array} labels */
  mean(labels, number) {
    if (!this.isCurrent || this.#image.facts.colour) return null;
    const { plane, index } = this.#stage;
    let [sum, count] = [0, 0];
    for (let y = 0, pixel = 0; y < plane.height; y += 1) {
      for (let x = 0; x < plane.width; x += 1, pixel += 1) {
        const [i, j] = plane.toVoxel({ x, y }, index);
        if (labels[j * plane.columns + i] !== number) continue;
        sum += Number(this.#values[pixel]);
        count += 1;
      }
    }
    return count ? sum / count : null;
  }

  /** "x 130, y 90, frame 9 · R 12.3  A 4.0  S 118.4 mm · 40 HU" @param {{x: number, y: number}} pixel Of the frame. */
  describe(pixel) {
    const { facts } = this.#image;
    const voxel = this.#stage.plane.toVoxel(pixel, this.#stage.index);
    const [i, j, k] = voxel;
    const place = placeOf(facts, voxel);
    const indices = facts.shape[2] > 1 ? `x ${i}, y ${j}, frame ${k + 1}` : `x ${i}, y ${j}`;
    const at = pixel.y * this.#stage.size.width + pixel.x;
    const value = facts.colour ? this.#values.slice(3 * at, 3 * at + 3) : this.#values.slice(at, at + 1);
    return [indices, ...(place ? [describePlace(place)] : []), describeValue([...value], facts.unit)].join(" · ");
  }

  #begin(image) {
    this.#image = image;
    this.#labels = new Map();
    this.#window = null;
    this.#panes = image.planes.slice(1).map((plane) => new SidePane(plane, (pixel, index) => {
      const chosen = image.planes[0].toPixel(plane.toVoxel(pixel, index));
      this.#stage.crosshair = { x: chosen.x, y: chosen.y };
      if (chosen.index === this.#session.wanted.frame) this.#showSides();
      else this.#session.set({ frame: chosen.index });
    }));
    this.#side.replaceChildren(...this.#panes.map((pane) => pane.element));
    this.#side.hidden = !this.#panes.length;
    this.#stage.isCrosshairLinked = this.#panes.length > 0;
  }

  #paint(index = this.#stage.index) {
    if (!this.#image) return;
    const { facts, planes } = this.#image;
    const drawn = picture(this.#values, planes[0], facts, this.#window);
    this.#stage.showPicture(planes[0], index, drawn, facts.affine !== null);
  }
}
