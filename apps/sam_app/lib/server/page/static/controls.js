/** The controls next to the image: they change the session's settings, and show its state. */

import { describeWindow, number } from "./words.js";

const byId = (id) => document.getElementById(id);

/** Controls for model, window and frame. */
export class Settings {
  #session;
  #display;
  #presets;
  #model = byId("model");
  /** @type {Record<string, {license: string, research_only: boolean, prompts: string[]}>} */
  #facts = {};
  #window = byId("window");
  #hounsfield = document.createElement("optgroup");
  #center = byId("center");
  #width = byId("width");
  #frame = byId("frame");
  #frameNumber = byId("frame-number");

  /**
   * @param {import("./session.js").Session} session
   * @param {import("./display.js").Display} display
   * @param {Record<string, {center: number, width: number}>} presets Windows by name, in Hounsfield units.
   */
  constructor(session, display, presets) {
    this.#session = session;
    this.#display = display;
    this.#presets = presets;
    this.#hounsfield.label = "CT, in Hounsfield units";
    for (const [name, { center, width }] of Object.entries(presets)) {
      const text = `${name[0].toUpperCase()}${name.slice(1)} (${center} / ${width})`;
      this.#hounsfield.append(new Option(text, name));
    }
    this.#model.addEventListener("change", () => {
      session.set({ model: this.#model.value });
      this.#showFacts();
    });
    this.#window.addEventListener("change", () => this.#choosePreset());
    for (const field of [this.#center, this.#width]) field.addEventListener("change", () => this.#chooseCustom());
    byId("window-model").addEventListener("click", () => session.set({ window: this.#seen }));
    display.addEventListener("window", () => this.#showWindow());
    this.#frame.addEventListener("input", () => session.set({ frame: this.#frame.valueAsNumber - 1 }));
    this.#frameNumber.addEventListener("change", () => this.#go(this.#frameNumber.valueAsNumber - 1));
  }

  /** @param {{models: Record<string, string>, model_facts: object, default_model: string}} health */
  setModels({ models, model_facts: facts, default_model: preferred }) {
    this.#facts = facts;
    const usable = Object.keys(models).filter((name) => models[name] !== "no checkpoint");
    const chosen = usable.includes(this.#model.value) ? this.#model.value : preferred;
    this.#model.replaceChildren(...usable.map((name) => new Option(name, name, name === preferred, name === chosen)));
    if (this.#session.wanted.model !== chosen) this.#session.set({ model: chosen });
    this.#showFacts();
  }

  /** Show which prompts the chosen model takes, and under which licence. */
  #showFacts() {
    const { license, research_only: isForResearch, prompts } = this.#facts[this.#model.value];
    const shapes = { point: "points", box: "rectangles" };
    const taken = Object.keys(shapes).filter((kind) => prompts.includes(kind));
    const terms = isForResearch ? `${license}, for research only` : license;
    byId("model-facts").textContent = `Takes ${taken.map((kind) => shapes[kind]).join(" and ")}. Licence: ${terms}.`;
  }

  get #frames() {
    return this.#session.image?.facts.shape[2] ?? 1;
  }

  get hasFrames() {
    return this.#frames > 1;
  }

  /** The window for looking as a model takes it; null: chosen by the server, as the image is shown at first. */
  get #seen() {
    const { window } = this.#display;
    return window && { center: window.center, width: window.width };
  }

  /** Go `by` frames forward (negative: back), at most to the last or first one. */
  step(by) {
    const { frame } = this.#session.wanted;
    if (this.hasFrames && frame !== null) this.#go(frame + by);
  }

  #go(frame) {
    const next = Math.max(0, Math.min(this.#frames - 1, Math.round(frame)));
    if (Number.isFinite(next) && next !== this.#session.wanted.frame) this.#session.set({ frame: next });
    this.show(); // the number field may contain an invalid frame
  }

  /** Show the frame, and the window that the model sees. */
  show() {
    const { image, wanted, result } = this.#session;
    if (!image) return;
    const { shown } = image.facts;
    const given = wanted.window && { ...wanted.window, source: "request" };
    byId("window-source").textContent = `The model sees: ${describeWindow(result?.facts.window ?? given ?? shown)}`;
    byId("window-model").disabled = JSON.stringify(wanted.window) === JSON.stringify(this.#seen);
    byId("frames").hidden = !this.hasFrames;
    if (!this.hasFrames) return;
    for (const field of [this.#frame, this.#frameNumber]) {
      field.max = this.#frames;
      field.value = wanted.frame + 1;
    }
    byId("frame-count").textContent = `of ${number(this.#frames)}`;
  }

  /** Show the window for looking. */
  #showWindow() {
    const { facts } = this.#session.image;
    const isHounsfield = facts.unit === "HU";
    byId("window-fields").disabled = facts.colour;
    if (isHounsfield) this.#window.options[0].after(this.#hounsfield);
    else this.#hounsfield.remove();
    const chosen = this.#display.window;
    const { center, width } = chosen ?? facts.shown;
    this.#center.value = center === null ? "" : round(center);
    this.#width.value = width === null ? "" : round(width);
    const isThat = (name) => this.#presets[name].center === center && this.#presets[name].width === width;
    const preset = isHounsfield ? Object.keys(this.#presets).find(isThat) : undefined;
    this.#window.value = chosen ? (preset ?? "custom") : "";
    this.show();
  }

  #choosePreset() {
    const name = this.#window.value;
    if (name === "custom") return this.#center.focus();
    const preset = this.#presets[name];
    this.#display.setWindow(preset ? this.#display.windowOf(preset.center, preset.width) : null);
  }

  #chooseCustom() {
    const [center, width] = [this.#center.valueAsNumber, this.#width.valueAsNumber];
    const isWhole = Number.isFinite(center) && Number.isFinite(width);
    if (isWhole && this.#width.reportValidity()) this.#display.setWindow(this.#display.windowOf(center, width));
  }
}

/** Round to six significant digits, so that windows far below 1 are right, too. */
function round(value) {
  return Number(value.toPrecision(6));
}
