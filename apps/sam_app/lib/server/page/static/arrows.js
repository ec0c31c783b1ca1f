/** The arrow keys: by how many pixels of the picture one moves, to the right and down. */

const FAR = 10; // with Shift
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Return the step of a key event; null for other keys. @returns {[number, number] | null} */
export function arrowStep({ key, shiftKey }) {
  return key in ARROWS ? ARROWS[key].map((step) => step * (shiftKey ? FAR : 1)) : null;
}
