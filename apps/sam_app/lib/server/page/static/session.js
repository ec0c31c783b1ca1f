/**
 * The user's prompts and settings ("wanted"), and the server's results for them. Independent of the page.
 *
 * A change by the user takes effect at once and never waits. One loop then sends requests to the server, one at a
 * time, until there is a result for the *present* prompts and settings: points added meanwhile go together in the next
 * request. A result that is no longer wanted is stored, as an undo may need it, but not shown.
 *
 * A request refines the result that has the most of the wanted prompts, so that the image is sent only once and each
 * click refines the previous mask.
 *
 * @typedef {{kind: "positive" | "negative", x: number, y: number, from?: number}} Point In pixels of the image.
 * @typedef {{kind: "box", x: number, y: number, width: number, height: number, from?: number}} Box
 * @typedef {Point | Box} Prompt `from`: the candidate of the previous result that the prompt refines.
 * @typedef {{center: number, width: number}} Window In the image's own units.
 * @typedef {object} Result
 * @property {string} timestamp Its name on the server.
 * @property {object} facts The server's information about it (header `SAM-Result`).
 * @property {number} ms Time until the response.
 * @property {Prompt[]} prompts The prompts of the request.
 * @property {Blob} image The picture, PNG.
 * @property {Map<number, Blob>} masks Object numbers as PNG, by the candidate's rank.
 * @property {number} candidate The chosen candidate's rank.
 * @property {string} label The object's label on the server.
 */

/** Settings of the first result: chosen by the server. */
const ORIGIN = { window: null, frame: null };

/** Rank of the best candidate; candidates are ranked by score, from 0. */
const BEST = 0;

/** The server's name for an object without a label. */
const UNNAMED = "Object";

export class Session extends EventTarget {
  #api;
  #file = null;
  #results = new Map();
  #slides = new Map();
  #isWorking = false;
  #asking = 0;
  #changes = 0;

  constructor(api) {
    super();
    this.#api = api;
    /** @type {{model: string, multimask: boolean, window: Window | null, frame: number | null}} */
    this.wanted = { model: "", multimask: false, window: null, frame: null };
    this.label = "";
    /** @type {Error | null} Why the last request failed; prompts and settings are not changed by it. */
    this.error = null;
  }

  get file() {
    return this.#file;
  }

  /** Whether a request to the server is in progress. */
  get isBusy() {
    return this.#asking > 0;
  }

  /** The prompts on the wanted frame. */
  get prompts() {
    return this.#slide.prompts;
  }

  get canUndo() {
    return this.#slide.past.length > 0;
  }

  /** The wanted frame's prompts, and their states before each change. */
  get #slide() {
    const { frame } = this.wanted;
    if (!this.#slides.has(frame)) this.#slides.set(frame, { prompts: [], past: [] });
    return this.#slides.get(frame);
  }

  /** The result for the wanted prompts and settings, or null until there is one. @returns {Result | null} */
  get result() {
    return this.#find(this.prompts);
  }

  /** The result on the wanted frame with the most of the wanted prompts, or null. @returns {Result | null} */
  get nearest() {
    for (let count = this.prompts.length; count >= 0; count -= 1) {
      const result = this.#find(this.prompts.slice(0, count));
      if (result) return result;
    }
    return null;
  }

  /** Open a file, and discard the prompts and results of the previous one. */
  open(file) {
    this.#file = file;
    this.#results = new Map();
    this.#slides = new Map();
    this.wanted = { ...this.wanted, window: null, frame: null };
    this.#changed();
  }

  /** @param {Prompt} prompt */
  add(prompt) {
    const { result } = this;
    const isChosen = result && this.prompts.length && result.candidate !== BEST;
    this.#replacePrompts([...this.prompts, isChosen ? { ...prompt, from: result.candidate } : prompt]);
  }

  /** Remove the prompt at `index`. The prompts after it are requested again, without choices of candidates. */
  remove(index) {
    this.#replacePrompts(plain(this.prompts.filter((_, n) => n !== index)));
  }

  clear() {
    if (this.prompts.length) this.#replacePrompts([]);
  }

  undo() {
    if (!this.canUndo) return;
    this.#slide.prompts = this.#slide.past.pop();
    this.#changed();
  }

  /** Change settings. @param {Partial<Session["wanted"]>} settings Those to change. */
  set(settings) {
    this.wanted = { ...this.wanted, ...settings };
    if (["model", "multimask", "window"].some((name) => name in settings)) {
      // A choice of a candidate is valid only for one model and one picture.
      for (const slide of this.#slides.values()) {
        slide.prompts = plain(slide.prompts);
        slide.past = slide.past.map(plain);
      }
    }
    this.#changed();
  }

  /** Choose another candidate of the result, for display and for the next prompt to refine. */
  async choose(candidate) {
    const { result } = this;
    if (!result) return;
    await this.#guarded(async () => {
      if (!result.masks.has(candidate)) {
        result.masks.set(candidate, await this.#api.file(result.timestamp, "mask", candidate));
      }
      result.candidate = candidate;
    });
  }

  /** Repeat the request for the wanted prompts and settings. */
  retry() {
    this.#changed();
  }

  /** Show an error, or with null remove it. @param {Error | null} error */
  report(error) {
    this.error = error;
    this.#notify();
  }

  /** Download a file of the result from the server, with the present label. See `Api.file` for the kinds. */
  async download(kind) {
    return this.#guarded(async () => {
      const result = this.result;
      const label = this.label || UNNAMED;
      if (kind === "seg" && result.label !== label) {
        const { timestamp } = await this.#api.segment({ refine: Number(result.timestamp), label });
        Object.assign(result, { timestamp, label });
      }
      return this.#api.file(result.timestamp, kind, result.candidate === BEST ? null : result.candidate);
    });
  }

  #replacePrompts(prompts) {
    this.#slide.past.push(this.#slide.prompts);
    this.#slide.prompts = prompts;
    this.#changed();
  }

  #changed() {
    this.error = null;
    this.#changes += 1;
    this.#notify();
    this.#work();
  }

  #notify() {
    this.dispatchEvent(new Event("change"));
  }

  /** Run work that sends requests; an error is stored for display, and null returned. */
  async #guarded(work) {
    this.#asking += 1;
    this.#notify();
    try {
      return await work();
    } catch (error) {
      this.error = error;
      return null;
    } finally {
      this.#asking -= 1;
      this.#notify();
    }
  }

  /** Send requests until there is a result for the wanted prompts and settings, or an error. */
  async #work() {
    if (this.#isWorking || !this.#file) return;
    this.#isWorking = true;
    await this.#guarded(async () => {
      try {
        await this.#stepUntilDone();
      } finally {
        this.#isWorking = false;
      }
    });
  }

  async #stepUntilDone() {
    let isResent = false;
    while (!this.result) {
      const changes = this.#changes;
      try {
        await this.#step();
      } catch (error) {
        if (changes !== this.#changes) continue; // the failed request is no longer wanted
        if (error.status !== 404 || isResent || !this.#results.size) throw error;
        isResent = true; // the server no longer has the result to refine: send the image again
        this.#results.clear();
      }
      this.#notify();
    }
  }

  /** Send one request, with as many of the wanted prompts as possible. */
  async #step() {
    const { wanted } = this;
    const origin = this.#results.get(key(ORIGIN, []));
    if (!origin) return this.#store({ automatic: false }, [], ORIGIN);

    const parent = this.nearest;
    if (!parent) {
      const scene = { frame: wanted.frame, ...(wanted.window ? { window: wanted.window } : {}) };
      return this.#store({ refine: Number(origin.timestamp), automatic: false, ...scene }, [], wanted);
    }

    const rest = this.prompts.slice(parent.prompts.length);
    const nextChoice = rest.findIndex((prompt, n) => n > 0 && prompt.from !== undefined);
    const added = nextChoice < 0 ? rest : rest.slice(0, nextChoice);
    const samInput = {
      refine: Number(parent.timestamp),
      model: wanted.model,
      ...(wanted.multimask ? { multimask: true } : {}),
      ...vocabulary(added),
      ...(added[0].from === undefined ? {} : { candidate: added[0].from }),
      ...(this.label ? { label: this.label } : {}),
    };
    return this.#store(samInput, [...parent.prompts, ...added], wanted, parent);
  }

  /** Send a request, and store the result under these prompts and settings. */
  async #store(samInput, prompts, settings, parent = null) {
    const results = this.#results;
    const isFirst = !parent && !samInput.refine;
    const answer = await this.#api.segment(samInput, isFirst ? this.#file : null);
    const label = samInput.label ?? parent?.label ?? UNNAMED;
    const result = { ...answer, prompts, masks: new Map(), candidate: BEST, label };
    result.image = parent?.image ?? (await this.#api.file(result.timestamp, "image"));
    if (prompts.length) result.masks.set(BEST, await this.#api.file(result.timestamp, "mask"));
    results.set(key(settings, prompts), result);
    if (!isFirst) return;
    const { slice } = result.facts; // the frame that the server chose
    results.set(key({ ...ORIGIN, frame: slice }, []), result);
    if (results === this.#results) this.wanted.frame ??= slice;
  }

  /** @returns {Result | null} */
  #find(prompts) {
    return this.#results.get(key(this.wanted, prompts)) ?? null;
  }
}

/** Return the key under which a result is stored. Without prompts a result is the same for all models. */
function key({ window, frame, model, multimask }, prompts) {
  return JSON.stringify([window, frame, ...(prompts.length ? [model, multimask, prompts] : [])]);
}

/** Return prompts without their choices of a candidate. */
function plain(prompts) {
  return prompts.map(({ from, ...prompt }) => prompt);
}

/** Return the objects' predicted IoU for candidates of this rank; for an object with fewer, that of its best one. */
export function scoresOf({ facts }, candidate) {
  return facts.candidate_scores.map((scores) => scores[candidate] ?? scores[0]);
}

/** Return prompts as the fields of `SAMInput`. */
function vocabulary(prompts) {
  const points = (kind) => prompts.filter((prompt) => prompt.kind === kind).map(({ x, y }) => ({ x, y }));
  const rectangles = prompts
    .filter((prompt) => prompt.kind === "box")
    .map(({ x, y, width, height }) => ({ startX: x, startY: y, width, height }));
  const said = { positive_points: points("positive"), negative_points: points("negative"), rectangles };
  return Object.fromEntries(Object.entries(said).filter(([, list]) => list.length));
}
