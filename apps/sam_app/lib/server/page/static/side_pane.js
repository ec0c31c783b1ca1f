/** A smaller picture of another plane through the point that all planes share. Looking only: prompts are for the frames. */

import { arrowStep } from "./arrows.js";
import { Edges } from "./edges.js";
import { drawMarks } from "./marks.js";

export class SidePane {
  #canvas = document.createElement("canvas");
  #mask = document.createElement("canvas");
  #svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  #stage = document.createElement("div");
  #edges;
  #pixel = { x: 0, y: 0, index: 0 };

  /**
   * @param {import("./planes.js").Plane} plane
   * @param {(pixel: {x: number, y: number}, index: number) => void} choose Called for the point that the user chooses.
   */
  constructor(plane, choose) {
    this.plane = plane;
    this.choose = choose;
    /** Whether there is a picture yet. */
    this.isShown = false;
    this.element = document.createElement("div");
    this.element.className = "pane side-pane";
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "application");
    this.element.setAttribute("aria-label", `${plane.title} plane`);
    this.element.setAttribute("aria-describedby", "side-keys");
    this.#canvas.setAttribute("role", "img");
    for (const element of [this.#mask, this.#svg]) element.setAttribute("aria-hidden", "true");
    for (const canvas of [this.#canvas, this.#mask]) Object.assign(canvas, { width: plane.width, height: plane.height });
    this.#stage.className = "stage";
    this.#stage.append(this.#canvas, this.#mask, this.#svg);
    this.element.append(this.#stage);
    this.#edges = new Edges(this.element);
    new ResizeObserver(() => this.#fit()).observe(this.element);
    this.#listen();
  }

  /** @param {ImageData} picture @param {{x: number, y: number, index: number}} pixel The shared point. */
  show(picture, pixel) {
    this.#pixel = pixel;
    this.isShown = true;
    this.#canvas.getContext("2d").putImageData(picture, 0, 0);
    const [left, right] = this.plane.letters;
    const sides = left ? `, ${left} on the left, ${right} on the right` : "";
    this.#canvas.setAttribute("aria-label", `${this.plane.title}, slice ${pixel.index + 1} of ${this.plane.count}${sides}`);
    this.#fit();
  }

  /** The slice that is shown. */
  get index() {
    return this.#pixel.index;
  }

  /** @param {ImageData | null} mask Null: none is shown. */
  showMask(mask) {
    const context = this.#mask.getContext("2d");
    if (mask) context.putImageData(mask, 0, 0);
    else context.clearRect(0, 0, this.plane.width, this.plane.height);
  }

  #fit() {
    const { width, height, spacing, letters } = this.plane;
    const { clientWidth, clientHeight } = this.element;
    const scale = Math.max(0.01, Math.min(clientWidth / (width * spacing[0]), clientHeight / (height * spacing[1])));
    const [x, y] = [scale * spacing[0], scale * spacing[1]];
    this.#stage.style.width = `${width * x}px`;
    this.#stage.style.height = `${height * y}px`;
    this.#edges.show(letters, scale);
    drawMarks(this.#svg, { width, height, scale: { x, y }, prompts: [], draft: null, crosshair: this.#pixel });
  }

  #pixelAt({ clientX, clientY }) {
    const { left, top, width, height } = this.#stage.getBoundingClientRect();
    return this.#within(
      Math.floor(((clientX - left) / width) * this.plane.width),
      Math.floor(((clientY - top) / height) * this.plane.height),
    );
  }

  #within(x, y) {
    const clamp = (value, size) => Math.max(0, Math.min(size - 1, value));
    return { x: clamp(x, this.plane.width), y: clamp(y, this.plane.height) };
  }

  #step(by) {
    const index = Math.max(0, Math.min(this.plane.count - 1, this.#pixel.index + by));
    this.choose(this.#pixel, index);
  }

  #listen() {
    const choose = (event) => this.choose(this.#pixelAt(event), this.#pixel.index);
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.element.setPointerCapture(event.pointerId);
      choose(event);
    });
    this.element.addEventListener("pointermove", (event) => {
      if (this.element.hasPointerCapture(event.pointerId)) choose(event);
    });
    this.element.addEventListener("wheel", (event) => {
      if (!event.deltaY || event.ctrlKey) return;
      event.preventDefault();
      this.#step(Math.sign(event.deltaY));
    }, { passive: false });
    this.element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { x, y, index } = this.#pixel;
      const step = arrowStep(event);
      if (step) {
        this.choose(this.#within(x + step[0], y + step[1]), index);
      } else if (event.key === "PageUp" || event.key === "PageDown") this.#step(event.key === "PageUp" ? -1 : 1);
      else return;
      event.preventDefault();
    });
  }
}
