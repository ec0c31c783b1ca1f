/** Actions of mouse, pen, touch and keys on the image: prompts, undo, frames, zoom. */

const DRAG = 4; // screen pixels; a shorter movement is a click
const FAR = 10; // image pixels per arrow key with Shift

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Listen to events on the stage and call the matching action.
 *
 * @param {import("./stage.js").Stage} stage
 * @param {object} to The actions.
 * @param {() => "positive" | "negative" | "box"} to.mode Kind of prompt that a plain click adds.
 * @param {(prompt: object) => void} to.add
 * @param {() => void} to.undo
 * @param {(step: number) => void} to.frame
 * @param {() => boolean} to.hasFrames
 * @param {(pixel: {x: number, y: number}, isByKey: boolean) => void} to.at Gets the crosshair's or pointer's position.
 * @param {(text: string) => void} to.say
 */
export function listen(stage, to) {
  const boxes = new BoxDrawing(stage, to);
  pointer(stage, to, boxes);
  wheel(stage, to);
  keys(stage, to, boxes);
}

/** A box that is being drawn between two corners: by dragging, or with two clicks or keys. */
class BoxDrawing {
  #corner = null;

  constructor(stage, to) {
    this.stage = stage;
    this.to = to;
  }

  get isOpen() {
    return this.#corner !== null;
  }

  start(pixel) {
    this.#corner = pixel;
    this.move(pixel);
  }

  move(pixel) {
    if (!this.isOpen) return;
    const { x, y } = this.#corner;
    this.stage.draft = { x, y, width: pixel.x - x, height: pixel.y - y };
    this.stage.draw();
  }

  /** Discard the box. */
  drop() {
    this.#corner = null;
    this.stage.draft = null;
    this.stage.draw();
  }

  /** Discard the box if there is one, with a message. */
  cancel() {
    if (!this.isOpen) return;
    this.drop();
    this.to.say("The box was discarded");
  }

  end(pixel) {
    const { x, y } = this.#corner;
    this.drop();
    const [width, height] = [Math.abs(pixel.x - x), Math.abs(pixel.y - y)];
    if (!width || !height) return this.to.say("A box needs two different corners; it was discarded");
    this.to.add({ kind: "box", x: Math.min(x, pixel.x), y: Math.min(y, pixel.y), width, height });
  }

  /** Set the first corner or, if there is one, the second corner. */
  toggle(pixel) {
    if (this.isOpen) return this.end(pixel);
    this.start(pixel);
    this.to.say(`Box started at ${pixel.x}, ${pixel.y}; set its other corner in the same way`);
  }
}

function pointer(stage, to, boxes) {
  const { element } = stage;
  let down = null; // the event with which the button was pressed, and the state since

  element.addEventListener("contextmenu", (event) => event.preventDefault());
  element.addEventListener("pointerdown", (event) => {
    if (!stage.hasImage || !event.isPrimary) return;
    event.preventDefault();
    element.focus({ preventScroll: true, focusVisible: false });
    element.setPointerCapture(event.pointerId);
    stage.isCrosshairSeen = false;
    down = { event, last: event, isDrag: false };
  });
  element.addEventListener("pointermove", (event) => {
    if (!stage.hasImage) return;
    const pixel = stage.pixelAt(event);
    to.at(pixel, false);
    if (down?.event.button === 1) {
      stage.zoom.pan(down.last.clientX - event.clientX, down.last.clientY - event.clientY);
      down.last = event;
    } else if (down) {
      down.isDrag ||= Math.hypot(event.clientX - down.event.clientX, event.clientY - down.event.clientY) > DRAG;
      if (down.isDrag && !down.isBox) {
        down.isBox = true;
        boxes.start(stage.pixelAt(down.event));
      }
    }
    boxes.move(pixel);
  });
  element.addEventListener("pointerup", (event) => {
    if (!down) return;
    const { isBox, event: start } = down;
    down = null;
    if (start.button === 1) return;
    const pixel = stage.pixelAt(event);
    stage.crosshair = pixel;
    if (isBox) return boxes.end(pixel);
    const isNegative = start.button === 2 || start.shiftKey || start.altKey;
    const mode = isNegative ? "negative" : to.mode();
    if (boxes.isOpen || mode === "box") return boxes.toggle(pixel);
    to.add({ kind: mode, ...pixel });
  });
  element.addEventListener("pointercancel", () => {
    if (down?.isBox) boxes.drop();
    down = null;
  });
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

function keys(stage, to, boxes) {
  const move = ([x, y], distance) => {
    stage.isCrosshairSeen = true;
    stage.crosshair = stage.within({ x: stage.crosshair.x + x * distance, y: stage.crosshair.y + y * distance });
    stage.zoom.reveal(stage.crosshair);
    boxes.move(stage.crosshair);
    stage.draw();
    to.at(stage.crosshair, true);
  };
  const meanings = {
    enter: () => to.add({ kind: "positive", ...stage.crosshair }),
    n: () => to.add({ kind: "negative", ...stage.crosshair }),
    "-": () => to.add({ kind: "negative", ...stage.crosshair }),
    b: () => boxes.toggle(stage.crosshair),
    u: () => to.undo(),
    escape: () => boxes.cancel(),
    pageup: () => to.frame(-1),
    pagedown: () => to.frame(1),
    "]": () => stage.zoom.by(1),
    "[": () => stage.zoom.by(-1),
    0: () => stage.zoom.fit(),
  };
  stage.element.addEventListener("keydown", (event) => {
    if (!stage.hasImage || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key;
    const meaning = key in ARROWS ? () => move(ARROWS[key], event.shiftKey ? FAR : 1) : meanings[key.toLowerCase()];
    if (!meaning) return;
    event.preventDefault();
    if (!(key in ARROWS)) stage.isCrosshairSeen = true;
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
