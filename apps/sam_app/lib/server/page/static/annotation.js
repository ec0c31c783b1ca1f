/**
 * What a user has annotated on an image: objects, their label maps, and the prompts of the object in work. Independent
 * of the page and the server.
 *
 * A frame's label map has one object's number in each pixel, 0 for none. On top of it there may be prompts of one object;
 * the server's mask for them then stands in place of what the object had there, see `composed`. Work by hand, another
 * object's prompts and masks from elsewhere end the prompts: the mask stays.
 *
 * States are never changed, only replaced: undo and redo go from one to another.
 *
 * @typedef {{kind: "positive" | "negative", x: number, y: number, from?: number}} Point In pixels of the frame.
 * @typedef {{kind: "box", x: number, y: number, width: number, height: number, from?: number}} Box
 * @typedef {{kind: "scribble" | "lasso", points: {x: number, y: number}[], positive: boolean, width?: number,
 *   from?: number}} Drawing
 * @typedef {Point | Box | Drawing} Prompt `from`: the candidate of the previous result that the prompt refines.
 * @typedef {{number: number, name: string, isHidden: boolean, isLocked: boolean}} Item An object.
 * @typedef {object} Frame
 * @property {Uint8Array | null} labels Label map beneath the prompts, row by row; null: empty.
 * @property {Prompt[]} prompts
 * @property {number} owner The object that the prompts are of.
 * @property {boolean} startsFromMask Whether the prompts correct the mask that the object has in `labels`.
 * @property {number[]} byHand Objects whose mask was made or corrected by hand here.
 * @typedef {{items: Item[], active: number, frames: Map<number, Frame>}} State
 */

const MOST_STEPS = 200;
const MOST_OBJECTS = 255;
const EMPTY = { labels: null, prompts: [], owner: 0, startsFromMask: false, byHand: [] };

/** Prompts that say where the whole object is; others correct the mask that there is. */
const REPLACES = (prompt) => prompt.kind === "box" || (prompt.kind === "lasso" && prompt.positive);

export class Annotation {
  /** @type {State} */
  #state;
  #past = [];
  #future = [];
  #size;
  #nothing = { ...EMPTY };

  /** @param {number} size Pixels of a frame. */
  constructor(size) {
    this.#size = size;
    this.#state = { items: [item(1)], active: 1, frames: new Map() };
  }

  get items() {
    return this.#state.items;
  }

  /** The object that prompts and brush are for. @returns {Item} */
  get active() {
    return this.#state.items.find(({ number }) => number === this.#state.active);
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /** Frames on which there is something. @returns {number[]} */
  get used() {
    return [...this.#state.frames.keys()].sort((one, other) => one - other);
  }

  /** @returns {Frame} */
  frame(k) {
    return this.#state.frames.get(k) ?? this.#nothing;
  }

  /** Return the prompts of the active object on a frame. @returns {Prompt[]} */
  prompts(k) {
    const { prompts, owner } = this.frame(k);
    return owner === this.#state.active ? prompts : [];
  }

  /**
   * Return a frame's label map with the mask for its prompts.
   *
   * @param {number} k
   * @param {Uint8Array | null} mask Of the object in work: not 0 on it. Null: there is none yet.
   */
  composed(k, mask) {
    const { labels, owner } = this.frame(k);
    if (!mask) return labels ?? new Uint8Array(this.#size);
    return this.#painted(labels, owner, mask, (pixel) => mask[pixel] !== 0);
  }

  /** Add a prompt for the active object. @param {Uint8Array} seen The frame's label map as the user sees it. */
  addPrompt(k, prompt, seen) {
    const frame = this.frame(k);
    const { active } = this.#state;
    const goesOn = frame.prompts.length > 0 && frame.owner === active;
    const labels = goesOn ? frame.labels : seen;
    const startsFromMask = !REPLACES(prompt) && (goesOn ? frame.startsFromMask : seen.includes(active));
    const prompts = goesOn ? [...frame.prompts, prompt] : [prompt];
    this.#step(k, [[k, { ...frame, labels, owner: active, prompts, startsFromMask }]]);
  }

  /** Replace the prompts of the active object; without any, its mask is again what it was before them. */
  setPrompts(k, prompts) {
    this.#step(k, [[k, { ...this.frame(k), prompts }]]);
  }

  /** Remove the active object's prompts and mask on a frame. @param {Uint8Array} seen */
  clear(k, seen) {
    if (this.prompts(k).length) this.setPrompts(k, []);
    else this.paint(k, seen, (pixel) => seen[pixel] === this.#state.active, 0);
  }

  /**
   * Replace the active object's mask by hand; prompts end.
   *
   * @param {number} k
   * @param {Uint8Array} seen The frame's label map as the user sees it.
   * @param {(pixel: number) => boolean} isIn
   */
  reshape(k, seen, isIn) {
    const labels = this.#painted(seen, this.#state.active, seen, isIn);
    this.#step(k, [[k, this.#byHand(k, labels)]]);
  }

  /** Give the pixels to the active object, or with `number` 0 take them from it; as `reshape`. */
  paint(k, seen, isIn, number = this.#state.active) {
    this.#step(k, [[k, this.#byHand(k, this.brushed(seen, isIn, number))]]);
  }

  /** Return a label map after the brush, or the eraser (`number` 0); locked objects stay as they are. */
  brushed(seen, isIn, number = this.#state.active) {
    const { active } = this.#state;
    const locked = this.#locked();
    return seen.map((label, pixel) => {
      if (!isIn(pixel) || locked.has(label)) return label;
      return number === 0 && label !== active ? label : number;
    });
  }

  /**
   * Replace an object's masks on many frames, as one step.
   *
   * @param {number} shown The frame that undo then goes to.
   * @param {Map<number, Uint8Array>} masks By frame: not 0 on the object.
   * @param {(k: number) => Uint8Array} seen Returns a frame's label map as the user sees it.
   * @param {object} [options]
   * @param {number} [options.number] The object; without it the active one.
   * @param {boolean} [options.isWhole] Whether frames without a mask lose the one that they have.
   * @param {(k: number) => boolean} [options.isKept] Whether a frame stays as it is.
   * @param {object} [options.after] The `version` that an earlier call led to: if it is the present one, this call takes
   *   its place, as one step with it.
   */
  replaceMasks(shown, masks, seen, { number = this.#state.active, isWhole = false, isKept = () => false, after } = {}) {
    if (after && after === this.version) this.#state = { ...this.#state, frames: this.#past.pop().state.frames };
    const frames = isWhole ? new Set([...this.used, ...masks.keys()]) : masks.keys();
    const changed = [];
    for (const k of frames) {
      if (isKept(k)) continue;
      const before = seen(k);
      const mask = masks.get(k);
      if (!mask && !before.includes(number)) continue;
      const labels = this.#painted(before, number, before, (pixel) => Boolean(mask?.[pixel]));
      const byHand = this.frame(k).byHand.filter((one) => one !== number);
      changed.push([k, { ...EMPTY, labels, byHand }]);
    }
    this.#step(shown, changed);
  }

  /** Replace everything by label maps from elsewhere. @param {Map<number, Uint8Array>} frames @param {Item[]} items */
  load(shown, frames, items) {
    const kept = items.length ? items : [item(1)];
    const mapped = [...frames].map(([k, labels]) => [k, { ...EMPTY, labels }]);
    this.#replace(shown, { items: kept, active: kept[0].number, frames: new Map(mapped) });
  }

  /** End the prompts on a frame, and keep its mask. That is no step of its own. @param {Uint8Array} seen */
  settle(k, seen) {
    const frame = this.frame(k);
    if (!frame.prompts.length) return;
    const frames = new Map(this.#state.frames).set(k, { ...EMPTY, labels: seen, byHand: frame.byHand });
    this.#state = { ...this.#state, frames };
  }

  /** Add an object, and make it the active one. @param {number} k The present frame. */
  addItem(k, name = "") {
    const taken = new Set(this.items.map(({ number }) => number));
    const free = Array.from({ length: MOST_OBJECTS }, (_, n) => n + 1).find((number) => !taken.has(number));
    if (!free) throw new Error(`An image has at most ${MOST_OBJECTS} objects.`);
    this.#replace(k, { ...this.#state, items: [...this.items, item(free, name)], active: free });
  }

  /**
   * Make an object of each number in a mask, on the pixels that have none yet.
   *
   * @param {number} k
   * @param {Uint8Array} mask Numbers, 0 for none.
   * @param {string[]} names From number 1 on, where they are known.
   * @param {Uint8Array} seen The frame's label map as the user sees it.
   * @returns {number} How many objects were made; those beyond the most that an image can have are left out.
   */
  addFound(k, mask, names, seen) {
    const isNew = (pixel) => mask[pixel] > 0 && seen[pixel] === 0;
    const found = new Set(mask.filter((_, pixel) => isNew(pixel)));
    const taken = new Set(this.items.map(({ number }) => number));
    const free = Array.from({ length: MOST_OBJECTS }, (_, n) => n + 1).filter((number) => !taken.has(number));
    const kept = [...found].sort((one, other) => one - other).slice(0, free.length);
    const numbers = new Map(kept.map((n, at) => [n, free[at]]));
    if (!numbers.size) return 0;
    const labels = seen.map((label, pixel) => (isNew(pixel) ? (numbers.get(mask[pixel]) ?? 0) : label));
    const items = [...numbers].map(([n, number]) => item(number, names[n - 1] ?? ""));
    const frames = new Map(this.#state.frames).set(k, { ...EMPTY, labels, byHand: this.frame(k).byHand });
    this.#replace(k, { ...this.#state, items: [...this.items, ...items], frames });
    return numbers.size;
  }

  /** Remove an object with its masks and prompts. @param {(k: number) => Uint8Array} seen */
  removeItem(k, number, seen) {
    const left = this.items.filter((one) => one.number !== number);
    const items = left.length ? left : [item(1)];
    const active = this.#state.active === number ? items[0].number : this.#state.active;
    const frames = new Map(this.#state.frames);
    for (const [at, frame] of frames) {
      if (!frame.labels?.includes(number) && !(frame.prompts.length && frame.owner === number)) continue;
      const labels = (frame.owner === number ? (frame.labels ?? new Uint8Array(this.#size)) : seen(at));
      const byHand = frame.byHand.filter((one) => one !== number);
      frames.set(at, { ...EMPTY, labels: labels.map((label) => (label === number ? 0 : label)), byHand });
    }
    this.#replace(k, { items, active, frames });
  }

  /** Make an object the active one; that is no step of its own. */
  activate(number) {
    this.#state = { ...this.#state, active: number };
  }

  /** Change an object's name, or whether it is hidden or locked; that is no step of its own. */
  change(number, facts) {
    const items = this.items.map((one) => (one.number === number ? { ...one, ...facts } : one));
    this.#state = { ...this.#state, items };
  }

  /** Drop the choices of candidates from all prompts, as they hold for one model and one picture only. */
  forgetChoices() {
    const without = (state) => ({ ...state, frames: new Map([...state.frames].map(([k, frame]) => [k, plain(frame)])) });
    this.#state = without(this.#state);
    for (const steps of [this.#past, this.#future]) for (const step of steps) step.state = without(step.state);
  }

  /** Go one step back; returns the frame on which it was. @returns {number} */
  undo() {
    return this.#turn(this.#past, this.#future);
  }

  /** Go one step forward again; likewise. */
  redo() {
    return this.#turn(this.#future, this.#past);
  }

  /** What stands for the masks and prompts as they are: another object after each change of them. */
  get version() {
    return this.#state.frames;
  }

  #locked() {
    const { active } = this.#state;
    return new Set(this.items.filter((one) => one.isLocked && one.number !== active).map(({ number }) => number));
  }

  /** Return a label map in which an object has just these pixels, but those of locked objects. */
  #painted(labels, number, like, isIn) {
    const locked = this.#locked();
    locked.delete(number);
    return like.map((_, pixel) => {
      const label = labels?.[pixel] ?? 0;
      if (isIn(pixel) && !locked.has(label)) return number;
      return label === number ? 0 : label;
    });
  }

  #byHand(k, labels) {
    return { ...EMPTY, labels, byHand: [...new Set([...this.frame(k).byHand, this.#state.active])] };
  }

  #step(k, changed) {
    const frames = new Map(this.#state.frames);
    for (const [at, frame] of changed) frames.set(at, frame);
    this.#replace(k, { ...this.#state, frames });
  }

  #replace(k, state) {
    this.#past.push({ state: this.#state, k });
    if (this.#past.length > MOST_STEPS) this.#past.shift();
    this.#future = [];
    this.#state = state;
  }

  #turn(steps, others) {
    const { state, k } = steps.pop();
    others.push({ state: this.#state, k });
    this.#state = state;
    return k;
  }
}

/** Return what an object is called, also where it has no name yet. @param {Item} item */
export function nameOf({ name, number }) {
  return name || `Object ${number}`;
}

/** Return a new object. @returns {Item} */
export function item(number, name = "") {
  return { number, name, isHidden: false, isLocked: false };
}

function plain(frame) {
  return { ...frame, prompts: frame.prompts.map(({ from, ...prompt }) => prompt) };
}
