/** Actions of mouse, pen, touch and keys on the image: prompts, brush, undo, frames, zoom, window. Pixels are the picture's. */

import { arrowStep } from "./arrows.js";

const DRAG = 4; // screen pixels; a shorter movement is a click
const MOVES_MARKS = ["positive", "negative", "box"]; // tools with which a mark is moved by dragging it

/** Tools that draw a line; the others set points, and boxes by dragging. */
const LINES = ["scribble", "lasso", "brush", "eraser"];
const BRUSHES = ["brush", "eraser"];

/**
 * Listen to events on the stage and call the matching action.
 *
 * @param {import("./stage.js").Stage} stage
 * @param {object} to The actions.
 * @param {() => "positive" | "negative" | "box" | "scribble" | "lasso" | "brush" | "eraser"} to.mode The chosen tool.
 * @param {(number: number) => void} to.choose Chooses the tool with this number, from 1.
 * @param {() => number} to.size Of brush, eraser and scribble, in pixels.
 * @param {(step: number) => void} to.resize
 * @param {(prompt: object) => void} to.add
 * @param {(index: number, prompt: object) => void} to.move Puts a prompt elsewhere.
 * @param {(points: {x: number, y: number}[], isEraser: boolean, isEnd: boolean) => void} to.brush
 * @param {() => void} to.stopBrush Nothing of it is to stay.
 * @param {(pixel: {x: number, y: number}) => string} to.name Returns the pixel's name for the user.
 * @param {() => void} to.undo
 * @param {() => void} to.redo
 * @param {(step: number) => void} to.frame
 * @param {() => boolean} to.hasFrames
 * @param {(pixel: {x: number, y: number} | null) => void} to.hover Gets where a mouse could set a positive point.
 * @param {(pixel: {x: number, y: number}, isByKey: boolean) => void} to.at Gets the crosshair's or pointer's position.
 * @param {() => void} to.crosshairMoved
 * @param {(right: number, down: number) => void} to.window Gets a drag with the right button, in screen pixels.
 * @param {(text: string) => void} to.say
 */
export function listen(stage, to) {
  const drawing = new Drawing(stage, to);
  pointer(stage, to, drawing);
  wheel(stage, to);
  keys(stage, to, drawing);
}

/** What is being drawn with the chosen tool: a box between two corners, or a line. By dragging, or from key to key. */
class Drawing {
  #mode = null;
  #points = [];
  #isNegative = false;

  constructor(stage, to) {
    this.stage = stage;
    this.to = to;
  }

  get isOpen() {
    return this.#mode !== null;
  }

  /** @param {string} mode The tool. @param {boolean} isNegative Whether what is drawn is beside the object. */
  start(pixel, mode, isNegative = false) {
    [this.#mode, this.#points, this.#isNegative] = [LINES.includes(mode) ? mode : "box", [], isNegative];
    this.move(pixel);
  }

  move(pixel) {
    if (!this.isOpen) return;
    const last = this.#points.at(-1);
    if (!last || last.x !== pixel.x || last.y !== pixel.y) this.#points.push(pixel);
    if (BRUSHES.includes(this.#mode)) this.to.brush(this.#points, this.#mode === "eraser", false);
    else this.stage.draft = this.#prompt;
    this.stage.draw();
  }

  /** Discard what is drawn. */
  drop() {
    if (BRUSHES.includes(this.#mode)) this.to.stopBrush();
    [this.#mode, this.#points] = [null, []];
    this.stage.draft = null;
    this.stage.draw();
  }

  /** Discard what is drawn if there is something, with a message. */
  cancel() {
    if (!this.isOpen) return;
    const name = this.#mode;
    this.drop();
    this.to.say(`The ${name} was discarded`);
  }

  end(pixel) {
    this.move(pixel);
    const [prompt, mode, points] = [this.#prompt, this.#mode, this.#points];
    this.drop();
    if (BRUSHES.includes(mode)) return this.to.brush(points, mode === "eraser", true);
    if (mode === "box" && !(prompt.width && prompt.height)) {
      return this.to.say("A box needs two different corners; it was discarded");
    }
    if (mode === "lasso" && points.length < 3) {
      return this.to.say("A lasso is a line around something: drag it; it was discarded");
    }
    return this.to.add(prompt);
  }

  /** Begin to draw or, if that was done, end it. */
  toggle(pixel, mode) {
    if (this.isOpen) return this.end(pixel);
    this.start(pixel, mode);
    const name = this.#mode[0].toUpperCase() + this.#mode.slice(1);
    const how = this.#mode === "box" ? "set its other corner" : "move along, and end it";
    return this.to.say(`${name} started at ${this.to.name(pixel)}; ${how} in the same way`);
  }

  /** What is drawn, as a prompt. */
  get #prompt() {
    const points = [...this.#points];
    if (this.#mode === "lasso") return { kind: "lasso", points, positive: !this.#isNegative };
    if (this.#mode === "scribble") return { kind: "scribble", points, width: this.to.size(), positive: !this.#isNegative };
    const [one, other] = [points[0], points.at(-1)];
    const [x, y] = [Math.min(one.x, other.x), Math.min(one.y, other.y)];
    return { kind: "box", x, y, width: Math.abs(other.x - one.x), height: Math.abs(other.y - one.y) };
  }
}

function pointer(stage, to, drawing) {
  const { element } = stage;
  let down = null; // the event with which the button was pressed, and the state since
  const fingers = pinch(stage, () => {
    if (down?.isDrawing) drawing.drop();
    if (down?.grip) stage.showMoving(null);
    down = null;
  });

  const showBrush = (pixel) => {
    stage.brush = pixel && BRUSHES.includes(to.mode()) ? { ...pixel, size: to.size() } : null;
    stage.draw();
  };
  element.addEventListener("contextmenu", (event) => event.preventDefault());
  element.addEventListener("pointerleave", () => {
    showBrush(null);
    to.hover(null);
  });
  const gripAt = (event) => (MOVES_MARKS.includes(to.mode()) && !drawing.isOpen ? stage.gripAt(event) : null);
  element.addEventListener("pointerdown", (event) => {
    if (!stage.hasImage || fingers.down(event) || !event.isPrimary) return;
    event.preventDefault();
    to.hover(null);
    element.focus({ preventScroll: true, focusVisible: false });
    element.setPointerCapture(event.pointerId);
    stage.isCrosshairSeen = false;
    down = { event, last: event, isDrag: false, grip: event.button === 0 ? gripAt(event) : null };
  });
  element.addEventListener("pointermove", (event) => {
    if (!stage.hasImage || fingers.move(event)) return;
    const pixel = stage.pixelAt(event);
    to.at(pixel, false);
    showBrush(pixel);
    if (!down) {
      const isOnMark = gripAt(event) !== null;
      element.classList.toggle("on-mark", isOnMark);
      const sets = to.mode() === "positive" && !drawing.isOpen && !isOnMark && !event.shiftKey && !event.altKey;
      to.hover(sets && event.pointerType === "mouse" ? pixel : null);
    }
    if (down?.event.button === 1) {
      stage.zoom.pan(down.last.clientX - event.clientX, down.last.clientY - event.clientY);
      down.last = event;
    } else if (down) {
      down.isDrag ||= Math.hypot(event.clientX - down.event.clientX, event.clientY - down.event.clientY) > DRAG;
      if (down.isDrag && down.event.button === 2) {
        to.window(event.clientX - down.last.clientX, event.clientY - down.last.clientY);
        down.last = event;
      } else if (down.isDrag && down.grip) {
        stage.showMoving(down.grip, pixel);
      } else if (down.isDrag && !down.isDrawing) {
        down.isDrawing = true;
        drawing.start(stage.pixelAt(down.event), to.mode(), down.event.shiftKey || down.event.altKey);
      }
    }
    const passed = down?.isDrawing ? (event.getCoalescedEvents?.() ?? []) : [];
    for (const each of passed) drawing.move(stage.pixelAt(each));
    drawing.move(pixel);
  });
  element.addEventListener("pointerup", (event) => {
    fingers.up(event);
    if (!down) return;
    const { isDrawing, isDrag, event: start, grip } = down;
    down = null;
    if (start.button === 1 || (start.button === 2 && isDrag)) return;
    const pixel = stage.pixelAt(event);
    stage.crosshair = pixel;
    to.crosshairMoved();
    if (isDrag && grip) {
      stage.showMoving(null);
      return to.move(grip.index, grip.to(pixel));
    }
    if (isDrawing) return drawing.end(pixel);
    const isNegative = start.button === 2 || start.shiftKey || start.altKey;
    const mode = to.mode();
    if (drawing.isOpen) return drawing.end(pixel);
    if (mode === "box" && !isNegative) return drawing.toggle(pixel, mode);
    if (BRUSHES.includes(mode) && !isNegative) return to.brush([pixel], mode === "eraser", true);
    to.add({ kind: isNegative || mode === "negative" ? "negative" : "positive", ...pixel });
  });
  element.addEventListener("pointercancel", (event) => {
    fingers.up(event);
    fingers.drop();
  });
}

/**
 * Two fingers: they zoom and pan.
 *
 * @param {import("./stage.js").Stage} stage
 * @param {() => void} drop Discards what one finger had begun.
 * @returns {object} What to call for each event; whether it was for two fingers.
 */
function pinch(stage, drop) {
  const fingers = new Map();
  let last = null;
  const spread = () => {
    const [one, other] = [...fingers.values()];
    return {
      distance: Math.max(1, Math.hypot(one.x - other.x, one.y - other.y)),
      x: (one.x + other.x) / 2,
      y: (one.y + other.y) / 2,
    };
  };
  const put = ({ pointerId, clientX, clientY }) => fingers.set(pointerId, { x: clientX, y: clientY });
  return {
    drop,
    down(event) {
      if (event.pointerType !== "touch") return false;
      put(event);
      if (fingers.size !== 2) return fingers.size > 2;
      drop();
      last = spread();
      return true;
    },
    move(event) {
      if (!last || !fingers.has(event.pointerId)) return false;
      put(event);
      const now = spread();
      stage.zoom.by(Math.log(now.distance / last.distance) / Math.log(stage.zoom.step), now);
      stage.zoom.pan(last.x - now.x, last.y - now.y);
      last = now;
      return true;
    },
    up(event) {
      fingers.delete(event.pointerId);
      if (fingers.size < 2) last = null;
    },
  };
}

function wheel(stage, to) {
  const onWheel = (event) => {
    if (!stage.hasImage || !event.deltaY) return;
    event.preventDefault();
    if (to.hasFrames() && !event.ctrlKey) to.frame(Math.sign(event.deltaY));
    else stage.zoom.by(-Math.sign(event.deltaY), { x: event.clientX, y: event.clientY });
  };
  stage.element.parentElement.addEventListener("wheel", onWheel, { passive: false });
}

function keys(stage, to, drawing) {
  const move = ([right, down]) => {
    stage.isCrosshairSeen = true;
    stage.crosshair = stage.within({ x: stage.crosshair.x + right, y: stage.crosshair.y + down });
    stage.zoom.reveal(stage.crosshair);
    drawing.move(stage.crosshair);
    stage.draw();
    to.at(stage.crosshair, true);
    to.crosshairMoved();
  };
  const hasSize = () => LINES.includes(to.mode()) && to.mode() !== "lasso";
  const meanings = {
    enter: () => to.add({ kind: "positive", ...stage.crosshair }),
    n: () => to.add({ kind: "negative", ...stage.crosshair }),
    "-": () => to.add({ kind: "negative", ...stage.crosshair }),
    b: () => drawing.toggle(stage.crosshair, to.mode()),
    u: () => to.undo(),
    r: () => to.redo(),
    escape: () => drawing.cancel(),
    pageup: () => to.frame(-1),
    pagedown: () => to.frame(1),
    "]": () => (hasSize() ? to.resize(1) : stage.zoom.by(1)),
    "[": () => (hasSize() ? to.resize(-1) : stage.zoom.by(-1)),
    0: () => stage.zoom.fit(),
  };
  stage.element.addEventListener("keydown", (event) => {
    if (!stage.hasImage || event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event;
    if (/^[1-7]$/.test(key)) return to.choose(Number(key));
    const step = arrowStep(event);
    const meaning = step ? () => move(step) : meanings[key.toLowerCase()];
    if (!meaning) return;
    event.preventDefault();
    if (!step) stage.isCrosshairSeen = true;
    meaning();
    stage.draw();
  });
  stage.element.addEventListener("focus", () => {
    stage.isCrosshairSeen = stage.element.matches(":focus-visible");
    stage.draw();
  });
  stage.element.addEventListener("blur", () => {
    stage.isCrosshairSeen = false;
    stage.draw();
  });
}
