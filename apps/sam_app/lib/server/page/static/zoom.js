/** Size of the image on screen, and scrolling to the visible part. */

const STEP = 1.25;
const MOST = 64; // screen pixels per image pixel
const PIXELATED_ABOVE = 2;

export class Zoom extends EventTarget {
  #viewport;
  #stage;
  #size = { width: 0, height: 0 };
  #aspect = { x: 1, y: 1 };
  #factor = 1;
  #isFitted = true;

  /**
   * @param {HTMLElement} viewport Element that scrolls.
   * @param {HTMLElement} stage Scrolled element; its size is set to the image's size on screen.
   */
  constructor(viewport, stage) {
    super();
    this.#viewport = viewport;
    this.#stage = stage;
    new ResizeObserver(() => this.#isFitted && this.fit()).observe(viewport);
  }

  /**
   * Set the image's size; if it changes, fit the image.
   *
   * @param {{width: number, height: number}} size In pixels.
   * @param {number[]} spacing Of the pixels from left to right and from top to bottom, in any unit.
   */
  setSize({ width, height }, [across, down]) {
    const least = Math.min(across, down);
    const aspect = { x: across / least, y: down / least };
    const isSame = width === this.#size.width && height === this.#size.height;
    if (isSame && aspect.x === this.#aspect.x && aspect.y === this.#aspect.y) return;
    this.#size = { width, height };
    this.#aspect = aspect;
    this.fit();
  }

  /** Screen pixels per image pixel, from left to right and from top to bottom. @returns {{x: number, y: number}} */
  get scale() {
    return { x: this.#factor * this.#aspect.x, y: this.#factor * this.#aspect.y };
  }

  get #fitting() {
    const { clientWidth, clientHeight } = this.#viewport;
    const { width, height } = this.#size;
    return Math.max(0.01, Math.min(clientWidth / (width * this.#aspect.x), clientHeight / (height * this.#aspect.y)));
  }

  /** Show the whole image, as large as possible. */
  fit() {
    if (!this.#size.width) return;
    this.#isFitted = true;
    this.#viewport.classList.remove("zoomed");
    this.#apply(this.#fitting);
  }

  /** By how much one step enlarges. */
  get step() {
    return STEP;
  }

  /** Zoom in (`steps` > 0, may be a fraction) or out. The point under `anchor`, in client pixels, stays there. */
  by(steps, anchor = this.#middle()) {
    const before = this.#stage.getBoundingClientRect();
    const share = { x: (anchor.x - before.left) / before.width, y: (anchor.y - before.top) / before.height };
    const factor = Math.min(MOST, this.#factor * STEP ** steps);
    if (factor <= this.#fitting) return this.fit();
    this.#isFitted = false;
    this.#viewport.classList.add("zoomed");
    this.#apply(factor);
    const after = this.#stage.getBoundingClientRect();
    this.pan(after.left + share.x * after.width - anchor.x, after.top + share.y * after.height - anchor.y);
  }

  /** Scroll by screen pixels. */
  pan(x, y) {
    this.#viewport.scrollBy({ left: x, top: y, behavior: "instant" });
  }

  /** Scroll so that an image pixel is visible. */
  reveal({ x, y }) {
    const view = this.#viewport.getBoundingClientRect();
    const stage = this.#stage.getBoundingClientRect();
    const [left, top] = [stage.left + x * this.scale.x, stage.top + y * this.scale.y];
    const margin = 24;
    const over = (low, high, value) => Math.min(0, value - low - margin) + Math.max(0, value - high + margin);
    this.pan(over(view.left, view.right, left), over(view.top, view.bottom, top));
  }

  #middle() {
    const { left, top, width, height } = this.#viewport.getBoundingClientRect();
    return { x: left + width / 2, y: top + height / 2 };
  }

  #apply(factor) {
    this.#factor = factor;
    const { x, y } = this.scale;
    this.#stage.style.width = `${this.#size.width * x}px`;
    this.#stage.style.height = `${this.#size.height * y}px`;
    this.#stage.classList.toggle("pixelated", factor > PIXELATED_ABOVE);
    this.dispatchEvent(new Event("change"));
  }
}
