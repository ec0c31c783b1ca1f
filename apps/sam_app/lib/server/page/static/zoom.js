/** Size of the image on screen, and scrolling to the visible part. */

const STEP = 1.25;
const MOST = 64; // largest scale, in screen pixels per image pixel
const PIXELATED_ABOVE = 2;

export class Zoom extends EventTarget {
  #viewport;
  #stage;
  #size = { width: 0, height: 0 };
  #isFitted = true;

  /**
   * @param {HTMLElement} viewport Element that scrolls.
   * @param {HTMLElement} stage Scrolled element; its size is set to the image's size on screen.
   */
  constructor(viewport, stage) {
    super();
    this.#viewport = viewport;
    this.#stage = stage;
    /** Screen pixels per image pixel. */
    this.scale = 1;
    new ResizeObserver(() => this.#isFitted && this.fit()).observe(viewport);
  }

  /** Set the image's size; if it changes, fit the image. @param {{width: number, height: number}} size In pixels. */
  setSize({ width, height }) {
    if (width === this.#size.width && height === this.#size.height) return;
    this.#size = { width, height };
    this.fit();
  }

  get #fitting() {
    const { clientWidth, clientHeight } = this.#viewport;
    return Math.max(0.01, Math.min(clientWidth / this.#size.width, clientHeight / this.#size.height));
  }

  /** Show the whole image, as large as possible. */
  fit() {
    if (!this.#size.width) return;
    this.#isFitted = true;
    this.#viewport.classList.remove("zoomed");
    this.#apply(this.#fitting);
  }

  /** Zoom in (`steps` > 0) or out. The point under `anchor`, in client pixels, stays there. */
  by(steps, anchor = this.#middle()) {
    const before = this.#stage.getBoundingClientRect();
    const share = { x: (anchor.x - before.left) / before.width, y: (anchor.y - before.top) / before.height };
    const scale = Math.min(MOST, this.scale * STEP ** steps);
    if (scale <= this.#fitting) return this.fit();
    this.#isFitted = false;
    this.#viewport.classList.add("zoomed");
    this.#apply(scale);
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
    const [left, top] = [stage.left + x * this.scale, stage.top + y * this.scale];
    const margin = 24;
    const over = (low, high, value) => Math.min(0, value - low - margin) + Math.max(0, value - high + margin);
    this.pan(over(view.left, view.right, left), over(view.top, view.bottom, top));
  }

  #middle() {
    const { left, top, width, height } = this.#viewport.getBoundingClientRect();
    return { x: left + width / 2, y: top + height / 2 };
  }

  #apply(scale) {
    this.scale = scale;
    this.#stage.style.width = `${this.#size.width * scale}px`;
    this.#stage.style.height = `${this.#size.height * scale}px`;
    this.#stage.classList.toggle("pixelated", scale > PIXELATED_ABOVE);
    this.dispatchEvent(new Event("change"));
  }
}
