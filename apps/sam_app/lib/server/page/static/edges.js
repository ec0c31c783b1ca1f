/** What stands at the edges of a picture: letters of the patient's sides, and a bar of a length in mm. */

const SIDES = ["left", "right", "top", "bottom"];
const MOST_OF_WIDTH = 0.3;
const STEPS = [5, 2, 1];

export class Edges {
  #letters = SIDES.map((side) => made("span", `side ${side}`));
  #bar = made("div", "bar");
  #length = made("span", "length");

  /** @param {HTMLElement} pane Element that holds the picture, and is as large as what is seen of it. */
  constructor(pane) {
    this.pane = pane;
    this.#bar.append(this.#length);
    this.#bar.hidden = true;
    pane.append(...this.#letters, this.#bar);
  }

  /**
   * @param {string[]} letters Of the left, right, top and bottom; empty ones are not shown.
   * @param {number | null} pixels Screen pixels per mm from left to right; null if that is not known.
   */
  show(letters, pixels) {
    this.#letters.forEach((element, side) => { element.textContent = letters[side]; });
    this.#bar.hidden = pixels === null;
    if (pixels === null) return;
    const length = roundLength((this.pane.clientWidth * MOST_OF_WIDTH) / pixels);
    this.#bar.style.width = `${length * pixels}px`;
    this.#length.textContent = `${length} mm`;
  }
}

/** Return the largest of 1, 2, 5, 10, 20, ... (and of 0.5, 0.2, ...) that is at most `most`. */
function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  const step = STEPS.find((one) => one * power <= most) ?? 1;
  return Number((step * power).toPrecision(1));
}

function made(name, className) {
  const element = document.createElement(name);
  element.className = className;
  element.setAttribute("aria-hidden", "true");
  return element;
}
