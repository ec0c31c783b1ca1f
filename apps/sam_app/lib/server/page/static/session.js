/**
 * The user's image, annotation and settings ("wanted"), and the server's masks for the prompts. Independent of the page.
 *
 * An image replaces the one before it only once the server has read it. A change by the user takes effect at once and
 * never waits. One loop then sends requests to the server, one at a time, until there is a result for the *present*
 * prompts and settings: points added meanwhile go together in the next request. A result that is no longer wanted is
 * kept, as an undo may need it, but not shown.
 *
 * A request refines the result that has the most of the wanted prompts, so that each click refines the previous mask.
 * Without prompts nothing is asked for.
 *
 * @typedef {import("./annotation.js").Prompt} Prompt
 * @typedef {{center: number, width: number}} Window In the image's own units.
 * @typedef {{name: string, files?: File[], session?: string, id?: string, tags?: string[]}} Origin Files of the user, or
 *   after a reload the session that they were sent to; or an image of the server's.
 * @typedef {object} Result
 * @property {string} timestamp Its name on the server.
 * @property {object} facts The server's information about it (header `SAM-Result`).
 * @property {number} ms Time until the response.
 * @property {Prompt[]} prompts The prompts of the request.
 * @property {Map<number, Uint8Array>} masks Object numbers, by the candidate's rank.
 * @property {number} candidate The chosen candidate's rank.
 * @property {string} label The object's label on the server.
 */

import { Annotation, item, nameOf } from "./annotation.js";
import { outline, stamp } from "./hand.js";
import { ViewedImage } from "./image.js";
import { readMask } from "./mask.js";
import { readNifti, writeNifti } from "./nifti.js";
import { greyPng } from "./png.js";

/** Rank of the best candidate; candidates are ranked by score, from 0. */
const BEST = 0;

/** The server's name for an object without a label. */
const UNNAMED = "Object";

const MOST_RESULTS = 100;

/** Time after which the server tells how far it has followed an object. */
const PART_SECONDS = 1;

const counted = new WeakMap();

export class Session extends EventTarget {
  #api;
  #origin = null;
  #opening = null;
  #refused = null;
  #sending = null;
  #results = new Map();
  #shown = new WeakMap(); // the last mask that was shown for a list of prompts
  #seen = new WeakMap();
  #starts = new WeakMap();
  #startCount = 0;
  #isWorking = false;
  #asking = 0;
  #changes = 0;
  #saved = null;
  #following = null;
  #followed = null;

  constructor(api) {
    super();
    this.#api = api;
    /** @type {{model: string, multimask: boolean, window: Window | null, frame: number | null}} */
    this.wanted = { model: "", multimask: false, window: null, frame: null };
    /** The image, to be looked at. @type {ViewedImage | null} */
    this.image = null;
    this.annotation = new Annotation(0);
    /** @type {Error | null} Why the last request failed; prompts and settings are not changed by it. */
    this.error = null;
  }

  /** Where the open image comes from. @returns {Origin | null} */
  get origin() {
    return this.#origin;
  }

  /** The open image's name; empty if there is none. */
  get name() {
    return this.#origin?.name ?? "";
  }

  /** The id of the server's image that is open; null for files of the user. */
  get stored() {
    return this.#origin?.id ?? null;
  }

  /** The tags of the labels that the server has of the image. @returns {string[]} */
  get tags() {
    return this.#origin?.tags ?? [];
  }

  /** What is being opened, or null. @returns {Origin | null} */
  get opening() {
    return this.#opening;
  }

  /** How many changes the user has made. */
  get changes() {
    return this.#changes;
  }

  /** Whether a request to the server is in progress. */
  get isBusy() {
    return this.#asking > 0;
  }

  get isFollowing() {
    return this.#following !== null;
  }

  /** The first and the last frame that following has reached; null before the first. @returns {number[] | null} */
  get followed() {
    return this.#followed;
  }

  /** Whether there is work that was not saved. */
  get isUnsaved() {
    return this.annotation.canUndo && this.#saved !== this.#snapshot;
  }

  /** The active object's prompts on the wanted frame. */
  get prompts() {
    return this.annotation.prompts(this.wanted.frame);
  }

  get canUndo() {
    return this.annotation.canUndo;
  }

  get canRedo() {
    return this.annotation.canRedo;
  }

  /** Whether the active object has prompts or a mask on the wanted frame. */
  get canClear() {
    return this.image !== null && (this.prompts.length > 0 || this.#has(this.wanted.frame));
  }

  /** The result for the wanted prompts and settings; null until there is one, and without prompts. */
  get result() {
    return this.#find(this.wanted.frame, this.prompts);
  }

  /** Whether there is a result for all that is wanted on this frame. */
  get isDone() {
    const { prompts } = this.annotation.frame(this.wanted.frame);
    return prompts.length === 0 || this.#find(this.wanted.frame, prompts) !== null;
  }

  /** The result on the wanted frame with the most of the wanted prompts, or null. @returns {Result | null} */
  get nearest() {
    return this.#nearest(this.wanted.frame);
  }

  /** Return a frame's label map as the user sees it: object numbers, row by row. @returns {Uint8Array} */
  seen(k) {
    const { annotation } = this;
    const frame = annotation.frame(k);
    const mask = frame.prompts.length ? this.#maskFor(k, frame) : null;
    const { items, active } = annotation;
    const known = this.#seen.get(frame);
    if (known && known.mask === mask && known.items === items && known.active === active) return known.labels;
    const labels = annotation.composed(k, mask);
    this.#seen.set(frame, { mask, items, active, labels });
    return labels;
  }

  /** Return the label maps of all frames that have one. @returns {[number, Uint8Array][]} */
  get labels() {
    return this.annotation.used.map((k) => [k, this.seen(k)]).filter(([, labels]) => countsOf(labels)[0] < labels.length);
  }

  /**
   * Open an image; once it is open, the annotation of the previous one is discarded.
   *
   * @param {Origin} origin
   * @param {{frame: number, items: object[], frames: Map<number, Uint8Array>} | null} work Masks to go on with.
   */
  open(origin, work = null) {
    this.#opening = origin;
    this.#changes += 1;
    [this.#refused, this.error] = [null, null];
    return this.#guarded(async () => {
      try {
        const [source, image] = await this.#fetch(origin);
        if (origin !== this.#opening) return;
        [this.#origin, this.source, this.image] = [origin, source, image];
        const [columns, rows, frames] = image.facts.shape;
        this.annotation = new Annotation(columns * rows);
        this.#results = new Map();
        this.#saved = null;
        this.#following?.abort();
        const frame = work?.frame ?? Math.floor(frames / 2);
        this.wanted = { ...this.wanted, window: null, frame };
        if (work) this.annotation.load(frame, work.frames, work.items);
      } catch (error) {
        if (origin !== this.#opening) return; // another image is wanted now
        this.#refused = origin;
        throw error;
      } finally {
        if (origin === this.#opening) this.#opening = null;
      }
    });
  }

  /**
   * Return a slice of the image; see `ViewedImage.slice`. If the server no longer has the image, it is sent again.
   *
   * @param {ViewedImage} image The present one.
   */
  async slice(image, plane, index) {
    try {
      return await image.slice(plane, index);
    } catch (error) {
      if (error.status !== 404 || image !== this.image) throw error;
      await this.#sendAgain(error);
      return image.slice(plane, index);
    }
  }

  /** @param {Prompt} prompt */
  add(prompt) {
    const { frame } = this.wanted;
    if (this.#refuseLocked()) return;
    const { result } = this;
    const isChosen = result && this.prompts.length && result.candidate !== BEST;
    this.annotation.addPrompt(frame, isChosen ? { ...prompt, from: result.candidate } : prompt, this.seen(frame));
    this.#changed();
  }

  /**
   * Return what a positive point would mark on this frame, if the server knows it at once; null: it does not, or the point
   * would refine a mask that there is.
   *
   * @param {{x: number, y: number}} point
   * @returns {Promise<Uint8Array | null>} Not 0 on it.
   */
  async preview({ x, y }) {
    const { image, wanted, isBusy } = this;
    if (!image || isBusy || this.isFollowing || this.#has(wanted.frame) || this.annotation.active.isLocked) return null;
    const scene = { frame: wanted.frame, ...(wanted.window ?? {}), model: wanted.model };
    const found = await this.#api.preview(image, { ...scene, x, y }).catch(() => null); // a click tells what is wrong
    return found && readMask(found);
  }

  /** Remove the prompt at `index`. */
  remove(index) {
    this.#setPrompts(this.prompts.filter((_, n) => n !== index));
  }

  /** Put another prompt in place of that at `index`. */
  move(index, prompt) {
    this.#setPrompts(this.prompts.map((known, n) => (n === index ? prompt : known)));
  }

  /** Those that differ, and all after them, are requested again, without choices of candidates. */
  #setPrompts(prompts) {
    if (this.#refuseLocked()) return;
    this.annotation.setPrompts(this.wanted.frame, prompts.map(({ from, ...prompt }) => prompt));
    this.#changed();
  }

  /** Remove the active object's prompts on this frame, or without prompts its mask. */
  clear() {
    if (!this.canClear || this.#refuseLocked()) return;
    this.annotation.clear(this.wanted.frame, this.seen(this.wanted.frame));
    this.#changed();
  }

  undo() {
    if (this.canUndo) this.#goTo(this.annotation.undo());
  }

  redo() {
    if (this.canRedo) this.#goTo(this.annotation.redo());
  }

  /** Draw with the brush or the eraser. @param {{x: number, y: number}[]} points Of the frame. */
  brush(points, size, isEraser) {
    if (this.#refuseLocked()) return;
    const { frame } = this.wanted;
    const touched = this.#stamped(points, size);
    const seen = this.seen(frame);
    this.annotation.paint(frame, seen, (pixel) => touched[pixel] === 1, isEraser ? 0 : undefined);
    this.#changed();
  }

  /** Return the label map as it would be with a line that is being drawn. */
  brushed(points, size, isEraser) {
    const touched = this.#stamped(points, size);
    const seen = this.seen(this.wanted.frame);
    return this.annotation.brushed(seen, (pixel) => touched[pixel] === 1, isEraser ? 0 : undefined);
  }

  #stamped(points, size) {
    const [columns, rows] = this.image.facts.shape;
    const touched = new Uint8Array(columns * rows);
    stamp(touched, columns, points, size);
    return touched;
  }

  /** Replace the active object's mask on this frame. @param {(mask: Uint8Array, width: number) => Uint8Array} work */
  reshape(work) {
    if (this.#refuseLocked()) return;
    const { frame } = this.wanted;
    const made = work(this.#maskOn(frame), this.image.facts.shape[0]);
    this.annotation.reshape(frame, this.seen(frame), (pixel) => made[pixel] === 1);
    this.#changed();
  }

  /**
   * Fill the frames without the active object between those with it.
   *
   * @param {(one: Uint8Array, other: Uint8Array, width: number, count: number) => Uint8Array[]} between
   * @returns {number} How many frames that were.
   */
  interpolate(between) {
    if (this.#refuseLocked()) return 0;
    const there = this.annotation.used.filter((k) => this.#has(k));
    const masks = new Map();
    there.forEach((k, n) => {
      const next = there[n + 1] ?? k;
      if (next - k < 2) return;
      const made = between(this.#maskOn(k), this.#maskOn(next), this.image.facts.shape[0], next - k - 1);
      made.forEach((mask, step) => masks.set(k + 1 + step, mask));
    });
    if (masks.size) {
      this.annotation.replaceMasks(this.wanted.frame, masks, (k) => this.seen(k));
      this.#changed();
    }
    return masks.size;
  }

  /**
   * Have the server follow the active object through the volume, from all frames with its prompts or its mask by hand.
   * Those stay as they are; on the others its mask is replaced as it is found, all of it as one step.
   *
   * @param {number} first On these frames alone.
   * @param {number} last
   * @returns {Promise<{slices: number[] | null, uncertain_slices: number[], is_complete: boolean} | null>} What is known
   *   of it, also if it was stopped once something was found; null: nothing was.
   */
  async follow(first, last) {
    if (this.#refuseLocked() || this.#following) return null;
    const { annotation, image, wanted } = this;
    const stop = new AbortController();
    return this.#guarded(async () => {
      [this.#following, this.#followed] = [stop, null];
      this.#notify();
      try {
        const { number, name } = annotation.active;
        const [kept, prompts] = this.#volumePrompts(first, last);
        const found = { label: name || UNNAMED, result_extension: ".nii.gz", slices: [first, last] };
        const isKept = (k) => k < first || k > last || kept.includes(k);
        const isThere = () => annotation === this.annotation && annotation.items.some((one) => one.number === number);
        let [facts, after] = [null, null];
        for await (const part of this.#followInParts({ ...prompts, ...found }, stop.signal)) {
          const masks = await readNifti(part.file, image.facts.shape);
          if (!isThere()) return null;
          const seen = (k) => this.seen(k);
          annotation.replaceMasks(wanted.frame, masks, seen, { number, isWhole: part.facts.is_complete, isKept, after });
          after = annotation.version;
          [facts, this.#followed] = [part.facts, part.facts.slices];
          this.#notify();
        }
        return facts;
      } finally {
        [this.#following, this.#followed] = [null, null];
      }
    });
  }

  /** Stop following; what was found until then stays. */
  stopFollowing() {
    this.#following?.abort(new Error("Following was stopped."));
  }

  /** Ask for an object in the volume again and again, until there is all of it or it was stopped. */
  async *#followInParts(params, signal) {
    const [model, client_id] = [`${this.wanted.model}_3d`, crypto.getRandomValues(new Uint32Array(4)).join("-")];
    let [seconds, count, facts] = [PART_SECONDS, 0, null];
    const ask = () => this.#api.infer(model, this.source, { ...params, client_id, seconds }, signal);
    do {
      let part;
      try {
        part = await this.#onImage(ask);
      } catch (error) {
        if (signal.aborted && facts) return;
        throw error;
      }
      ({ facts } = part);
      if (facts.found.length <= count) seconds = 0; // the server does not go on where it ended: it has too many clients
      count = facts.found.length;
      yield part;
    } while (!facts.is_complete);
  }

  // Objects

  addItem(name) {
    try {
      this.annotation.addItem(this.wanted.frame, name);
      this.#changed();
    } catch (error) {
      this.report(error);
    }
  }

  /**
   * Have the model find all objects on this frame, or what it has learned to find, without prompts.
   *
   * @returns {Promise<number | null>} How many new ones there are; null: it failed.
   */
  findAll() {
    const { annotation, wanted } = this;
    return this.#guarded(async () => {
      const ask = () => this.#api.segment({ ...this.source, ...this.#scene, model: wanted.model, automatic: true });
      const { mask, facts } = await this.#onImage(ask);
      const labels = await readMask(mask);
      if (annotation !== this.annotation) return null;
      const count = annotation.addFound(wanted.frame, labels, facts.names ?? [], this.seen(wanted.frame));
      this.#changed();
      return count;
    });
  }

  removeItem(number) {
    this.annotation.removeItem(this.wanted.frame, number, (k) => this.seen(k));
    this.#changed();
  }

  activate(number) {
    this.annotation.activate(number);
    this.#changed();
  }

  changeItem(number, facts) {
    this.annotation.change(number, facts);
    this.#notify();
  }

  /** Return what an object measures: pixels on this frame and in all, mm² and mm³ where the place is known. */
  measure(number) {
    const { spacing } = this.image.planes[0];
    const isPlaced = this.image.facts.affine !== null;
    const count = (k) => countsOf(this.seen(k))[number];
    const here = count(this.wanted.frame);
    const all = this.annotation.used.reduce((sum, k) => sum + count(k), 0);
    const [across, down, through] = spacing;
    return { here, all, area: isPlaced ? here * across * down : null, volume: isPlaced ? all * across * down * through : null };
  }

  /** Change settings. @param {Partial<Session["wanted"]>} settings Those to change. */
  set(settings) {
    if (["model", "multimask", "window"].some((name) => name in settings)) {
      for (const k of this.annotation.used) if (k !== this.wanted.frame) this.annotation.settle(k, this.seen(k));
      this.annotation.forgetChoices();
    }
    this.wanted = { ...this.wanted, ...settings };
    this.#changed();
  }

  /** Choose another candidate of the result, for display and for the next prompt to refine. */
  async choose(candidate) {
    const { result } = this;
    if (!result) return;
    await this.#guarded(async () => {
      await this.#addCandidate(result, candidate);
      result.candidate = candidate;
    });
  }

  /** Repeat what failed: opening an image, or the request for the wanted prompts and settings. */
  retry() {
    if (this.#refused) this.open(this.#refused);
    else this.#changed();
  }

  /** Show an error, or with null remove it. @param {Error | null} error */
  report(error) {
    [this.#refused, this.error] = [null, error];
    this.#notify();
  }

  /** Download a file of the result from the server, with the present label. See `Api.file` for the kinds. */
  async download(kind) {
    return this.#guarded(async () => {
      const result = this.result;
      const label = this.annotation.active.name || UNNAMED;
      if (kind === "seg" && result.label !== label) {
        const { timestamp } = await this.#api.segment({ refine: Number(result.timestamp), label });
        Object.assign(result, { timestamp, label });
      }
      return this.#api.file(result.timestamp, kind, result.candidate === BEST ? null : result.candidate);
    });
  }

  /**
   * Return all label maps as a file to keep.
   *
   * @param {"labels" | "seg" | "rtstruct" | "stl"} type `labels`: NIfTI, or PNG for a picture.
   * @returns {Promise<{file: Blob, suffix: string} | null>} Null: it failed.
   */
  exported(type) {
    return this.#guarded(async () => {
      const snapshot = this.#snapshot;
      const made = await this.#labelFile();
      const { file, suffix } = made;
      if (type !== "labels") made.file = await this.#api.convert(this.image.path, type, file, suffix, this.#labelInfo);
      this.#saved = snapshot;
      return made;
    });
  }

  /** Names of the objects that have a mask somewhere, by number. */
  get #labelInfo() {
    const items = this.annotation.items.filter(({ number }) => this.measure(number).all > 0);
    return items.map((one) => ({ name: nameOf(one), idx: one.number }));
  }

  /** @returns {Promise<{file: Blob, suffix: string}>} */
  async #labelFile() {
    const { shape, affine } = this.image.facts;
    if (!affine && shape[2] === 1) return { file: await greyPng(this.seen(0), shape[0]), suffix: ".png" };
    const placed = affine ?? [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]];
    return { file: await writeNifti(shape, placed, this.labels), suffix: ".nii.gz" };
  }

  /** Store the label maps as the image's label on the server. @param {string} tag `final`, or of a draft. */
  save(tag) {
    return this.#guarded(async () => {
      const snapshot = this.#snapshot;
      const { file, suffix } = await this.#labelFile();
      const info = this.#labelInfo;
      if (!info.length) throw new Error("There is no mask to save yet.");
      await this.#api.saveLabel(this.stored, tag, file, suffix, info);
      this.#saved = snapshot;
      this.#origin.tags = [...new Set([...this.tags, tag])];
      return info.map(({ name }) => name);
    });
  }

  /** Load a label of the image from the server, in place of the present masks; undo brings those back. */
  load(tag) {
    return this.#guarded(async () => {
      const { annotation, image } = this;
      const { file, names, notes } = await this.#api.label(this.source, tag);
      const frames = await readNifti(file, image.facts.shape);
      if (annotation !== this.annotation) return null;
      const items = names.map(({ idx, name }) => item(idx, name));
      annotation.load(this.wanted.frame, frames, items);
      this.#saved = this.#snapshot;
      const [first] = frames.keys();
      if (first !== undefined && !frames.has(this.wanted.frame)) this.set({ frame: first });
      return { count: items.length, notes };
    });
  }

  /** What stands for the present state: another after each change. */
  get #snapshot() {
    return this.annotation.version;
  }

  #has(k) {
    return countsOf(this.seen(k))[this.annotation.active.number] > 0;
  }

  /** Return the active object's mask: 1 on it. */
  #maskOn(k) {
    const { number } = this.annotation.active;
    return this.seen(k).map((label) => (label === number ? 1 : 0));
  }

  #refuseLocked() {
    const { active } = this.annotation;
    if (active.isLocked) this.report(new Error(`${nameOf(active)} is locked: unlock it, or choose another.`));
    return active.isLocked;
  }

  #goTo(k) {
    if (k !== this.wanted.frame) this.wanted = { ...this.wanted, frame: k };
    this.#changed();
  }

  /** Return the frames that following starts from, and the prompts on them as `/infer` has them. */
  #volumePrompts(first, last) {
    const { annotation, image, wanted } = this;
    const { number } = annotation.active;
    const said = { foreground: [], background: [], scribbles: [], lassos: [] };
    const lasso = (points, k, positive = true) => {
      said.lassos.push({ points: points.map(({ x, y }) => [x, y, k]), positive });
    };
    const drawn = (k) => lasso(outline(this.#maskOn(k), image.facts.shape[0]), k);
    const kept = annotation.used.filter((k) => {
      if (k < first || k > last) return false;
      const { byHand, prompts, owner } = annotation.frame(k);
      if (prompts.length && owner === number) {
        for (const prompt of prompts) {
          const { kind, x, y, width, height, points, positive } = prompt;
          if (kind === "positive") said.foreground.push([x, y, k]);
          else if (kind === "negative") said.background.push([x, y, k]);
          else if (kind === "box") {
            lasso([{ x, y }, { x: x + width, y }, { x: x + width, y: y + height }, { x, y: y + height }], k);
          } else if (kind === "lasso") lasso(points, k, positive);
          else said.scribbles.push({ points: points.map((point) => [point.x, point.y, k]), width, positive });
        }
        return true;
      }
      if (!byHand.includes(number) || !this.#has(k)) return false;
      drawn(k);
      return true;
    });
    if (!kept.length) {
      if (wanted.frame < first || wanted.frame > last || !this.#has(wanted.frame)) {
        throw new Error("Mark the object on one of the frames first: that is where following starts.");
      }
      drawn(wanted.frame);
      kept.push(wanted.frame);
    }
    return [kept, Object.fromEntries(Object.entries(said).filter(([, list]) => list.length))];
  }

  /** Send the user's files, or look for the server's image; returns how requests name it, and the image. */
  async #fetch({ files, session: known, id }) {
    const session = id ? null : (known ?? (await this.#api.send(files)));
    const [named, path] = id ? [{ image: id }, `images/${encodeURIComponent(id)}`] : [{ session }, `session/${session}`];
    const facts = await this.#api.facts(id ? path : `${path}/view`);
    return [{ ...named, version: facts.version }, new ViewedImage(this.#api, path, facts)];
  }

  /** Ask something of the image; if the server no longer has it, it is sent again, and asked once more. */
  #onImage(ask) {
    return ask().catch(async (error) => {
      if (error.status !== 404) throw error;
      await this.#sendAgain(error);
      return ask();
    });
  }

  /** Send the image's files again, as the server no longer has them. @param {Error} error Why. */
  #sendAgain(error) {
    if (!this.#origin.files) throw error;
    const { image } = this;
    this.#sending ??= this.#fetch(this.#origin)
      .then(([source, sent]) => {
        image.path = sent.path;
        if (image === this.image) [this.source, this.#results] = [source, new Map()];
      })
      .finally(() => { this.#sending = null; });
    return this.#sending;
  }

  #changed() {
    [this.#refused, this.error] = [null, null];
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
    if (this.#isWorking || !this.image || this.isDone) return;
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
    let losses = 0;
    while (!this.isDone) {
      const changes = this.#changes;
      try {
        await this.#step();
      } catch (error) {
        if (changes !== this.#changes) continue; // the failed request is no longer wanted
        losses += 1;
        if (error.status !== 404 || losses > 2) throw error;
        if (this.nearest) this.#results = new Map(); // the server no longer has the result to refine
        else await this.#sendAgain(error);
      }
      this.#notify();
    }
  }

  /** Send one request, with as many of the wanted prompts as possible. */
  async #step() {
    const { wanted, annotation } = this;
    const frame = annotation.frame(wanted.frame);
    const parent = this.nearest;
    const rest = frame.prompts.slice(parent?.prompts.length ?? 0);
    const nextChoice = rest.findIndex((prompt, n) => n > 0 && prompt.from !== undefined);
    const added = nextChoice < 0 ? rest : rest.slice(0, nextChoice);
    const label = annotation.items.find(({ number }) => number === frame.owner)?.name;
    const samInput = {
      ...(parent ? { refine: Number(parent.timestamp) } : { ...this.source, ...this.#scene }),
      model: wanted.model,
      ...(wanted.multimask ? { multimask: true } : {}),
      ...vocabulary(added),
      ...(added[0].from === undefined ? {} : { candidate: added[0].from }),
      ...(label ? { label } : {}),
    };
    const start = parent || !frame.startsFromMask ? null : await this.#startOf(frame);
    const prompts = [...(parent?.prompts ?? []), ...added];
    const [results, name] = [this.#results, this.#key(wanted.frame, prompts)];
    const { mask, ...answer } = await this.#api.segment(samInput, start);
    const masks = new Map([[BEST, await readMask(mask)]]);
    const result = { ...answer, prompts, masks, candidate: BEST, label: label || parent?.label || UNNAMED };
    results.set(name, result);
    this.#addCandidates(result);
    if (results.size > MOST_RESULTS) results.delete(results.keys().next().value);
  }

  /** Fetch the masks of a result's other candidates, to be looked at. */
  async #addCandidates(result) {
    for (let candidate = BEST + 1; candidate < result.facts.candidates; candidate += 1) {
      const isThere = await this.#addCandidate(result, candidate).catch(() => false); // they are asked for when chosen
      if (!isThere) return;
    }
    if (result.facts.candidates > 1) this.#notify();
  }

  async #addCandidate({ timestamp, masks }, candidate) {
    if (!masks.has(candidate)) masks.set(candidate, await readMask(await this.#api.file(timestamp, "mask", candidate)));
    return true;
  }

  /** What of the image the model is to see. */
  get #scene() {
    const { frame, window } = this.wanted;
    return { frame, ...(window ? { window } : {}) };
  }

  /** Return the mask that prompts correct, as a picture. */
  #startOf({ labels, owner }) {
    return greyPng(labels.map((label) => (label === owner ? 255 : 0)), this.image.facts.shape[0]);
  }

  /** Return the mask to show for a frame's prompts; null: there is none yet. @returns {Uint8Array | null} */
  #maskFor(k, { prompts }) {
    const result = this.#nearest(k);
    if (!result || result.prompts.length < prompts.length) return this.#shown.get(prompts) ?? maskOf(result);
    this.#shown.set(prompts, maskOf(result)); // also for when other settings are wanted
    return maskOf(result);
  }

  #nearest(k) {
    const { prompts } = this.annotation.frame(k);
    for (let count = prompts.length; count > 0; count -= 1) {
      const result = this.#find(k, prompts.slice(0, count));
      if (result) return result;
    }
    return null;
  }

  /** @returns {Result | null} */
  #find(k, prompts) {
    return prompts.length ? (this.#results.get(this.#key(k, prompts)) ?? null) : null;
  }

  /** Return the key under which the result for prompts on a frame is stored. */
  #key(k, prompts) {
    const { window, model, multimask } = this.wanted;
    const { labels, owner, startsFromMask } = this.annotation.frame(k);
    if (startsFromMask && !this.#starts.has(labels)) this.#starts.set(labels, (this.#startCount += 1));
    const start = startsFromMask ? this.#starts.get(labels) : 0;
    return JSON.stringify([window, k, model, multimask, owner, start, prompts]);
  }
}

/** Return how many pixels each object number has. @param {Uint8Array} labels Is not changed any more. */
function countsOf(labels) {
  if (!counted.has(labels)) {
    const counts = new Uint32Array(256);
    for (const label of labels) counts[label] += 1;
    counted.set(labels, counts);
  }
  return counted.get(labels);
}

function maskOf(result) {
  return result ? result.masks.get(result.candidate) : null;
}

/** Return the objects' predicted IoU for candidates of this rank; for an object with fewer, that of its best one. */
export function scoresOf({ facts }, candidate) {
  return facts.candidate_scores.map((scores) => scores[candidate] ?? scores[0]);
}

/** Return prompts as the fields of `SAMInput`. */
function vocabulary(prompts) {
  const of = (kind) => prompts.filter((prompt) => prompt.kind === kind);
  const points = (kind) => of(kind).map(({ x, y }) => ({ x, y }));
  const said = {
    positive_points: points("positive"),
    negative_points: points("negative"),
    rectangles: of("box").map(({ x, y, width, height }) => ({ startX: x, startY: y, width, height })),
    scribbles: of("scribble").map(({ points: line, width, positive }) => ({ points: line, width, positive })),
    lassos: of("lasso").map(({ points: line, positive }) => ({ points: line, positive })),
  };
  return Object.fromEntries(Object.entries(said).filter(([, list]) => list.length));
}
