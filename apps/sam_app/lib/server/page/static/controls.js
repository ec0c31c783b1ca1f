/** The controls next to the image: they change the session's settings, and show its state. */

import { scoresOf } from "./session.js";
import { describeCandidate, describePrompt, describeWindow, number } from "./words.js";

const DOWNLOADS = {
  overlay: "overlay.png",
  mask: "mask.png",
  sc: "secondary-capture.dcm",
  seg: "segmentation.dcm",
};

const byId = (id) => document.getElementById(id);

/** Controls for model, window and frame. */
export class Settings {
  #session;
  #presets;
  #model = byId("model");
  /** @type {Record<string, {license: string, research_only: boolean, prompts: string[]}>} */
  #facts = {};
  #window = byId("window");
  #center = byId("center");
  #width = byId("width");
  #frame = byId("frame");
  #frameNumber = byId("frame-number");
  #frames = 1;

  /**
   * @param {import("./session.js").Session} session
   * @param {Record<string, {center: number, width: number}>} presets Windows by name.
   */
  constructor(session, presets) {
    this.#session = session;
    this.#presets = presets;
    for (const [name, { center, width }] of Object.entries(presets)) {
      const text = `${name[0].toUpperCase()}${name.slice(1)} (${center} / ${width})`;
      byId("window-presets").append(new Option(text, name));
    }
    this.#model.addEventListener("change", () => {
      session.set({ model: this.#model.value });
      this.#showFacts();
    });
    this.#window.addEventListener("change", () => this.#choosePreset());
    for (const field of [this.#center, this.#width]) field.addEventListener("change", () => this.#chooseCustom());
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

  get hasFrames() {
    return this.#frames > 1;
  }

  /** Go `by` frames forward (negative: back), at most to the last or first one. */
  step(by) {
    const { frame } = this.#session.wanted;
    if (this.hasFrames && frame !== null) this.#go(frame + by);
  }

  #go(frame) {
    const next = Math.max(0, Math.min(this.#frames - 1, Math.round(frame)));
    if (Number.isFinite(next) && next !== this.#session.wanted.frame) this.#session.set({ frame: next });
    this.show(null); // the number field may contain an invalid frame
  }

  /** Reset the choice of the window for a new file. */
  reset() {
    this.#window.value = "";
  }

  /** @param {import("./session.js").Result | null} result The shown result; null: keep the facts of the last one. */
  show(result) {
    if (result) {
      const { frames, window } = result.facts;
      this.#frames = frames;
      byId("window-fields").disabled = false;
      byId("window-source").textContent = `In use: ${describeWindow(window)}`;
      if (!this.#session.wanted.window) {
        this.#center.value = window.center === null ? "" : round(window.center);
        this.#width.value = window.width === null ? "" : round(window.width);
      }
    }
    const { frame } = this.#session.wanted;
    byId("frames").hidden = !this.hasFrames;
    if (frame === null || !this.hasFrames) return;
    for (const field of [this.#frame, this.#frameNumber]) {
      field.max = this.#frames;
      field.value = frame + 1;
    }
    byId("frame-count").textContent = `of ${number(this.#frames)}`;
  }

  #choosePreset() {
    const name = this.#window.value;
    if (name === "custom") return this.#center.focus();
    const window = this.#presets[name] ?? null;
    if (window) [this.#center.value, this.#width.value] = [window.center, window.width];
    this.#session.set({ window });
  }

  #chooseCustom() {
    const window = { center: this.#center.valueAsNumber, width: this.#width.valueAsNumber };
    const isWhole = Number.isFinite(window.center) && Number.isFinite(window.width);
    if (!isWhole || !this.#width.reportValidity()) return;
    this.#window.value = "custom";
    this.#session.set({ window });
  }
}

/** Controls for the list of prompts, the candidates and the downloads. */
export class ObjectPanel {
  #session;
  #list = byId("prompts");

  /** @param {import("./session.js").Session} session */
  constructor(session) {
    this.#session = session;
    const label = byId("label");
    label.addEventListener("input", () => { session.label = label.value.trim(); });
    const multimask = byId("multimask");
    multimask.addEventListener("change", () => session.set({ multimask: multimask.checked }));
    for (const button of document.querySelectorAll("[data-download]")) {
      button.addEventListener("click", () => this.#download(button.dataset.download));
    }
  }

  show() {
    const { prompts, result } = this.#session;
    this.#showPrompts(prompts);
    this.#showCandidates(result);
    for (const button of document.querySelectorAll("[data-download]")) button.disabled = !result || !prompts.length;
  }

  #showPrompts(prompts) {
    const focused = [...this.#list.children].findIndex((item) => item.contains(document.activeElement));
    this.#list.replaceChildren(...prompts.map((prompt, index) => this.#item(prompt, index)));
    byId("no-prompts").hidden = prompts.length > 0;
    if (focused < 0) return;
    const next = this.#list.children[Math.min(focused, prompts.length - 1)];
    (next?.querySelector("button") ?? byId("stage")).focus();
  }

  #item(prompt, index) {
    const text = describePrompt(prompt);
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.className = prompt.kind;
    name.textContent = text;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove ${text[0].toLowerCase()}${text.slice(1)}`);
    remove.addEventListener("click", () => this.#session.remove(index));
    item.append(name, remove);
    return item;
  }

  #showCandidates(result) {
    const count = result?.prompts.length ? result.facts.candidates : 0;
    byId("candidates").hidden = count < 2;
    const choices = Array.from({ length: count }, (_, candidate) => {
      const label = document.createElement("label");
      const radio = document.createElement("input");
      Object.assign(radio, { type: "radio", name: "candidate", checked: candidate === result.candidate });
      radio.addEventListener("change", () => this.#session.choose(candidate));
      label.append(radio, describeCandidate(candidate, scoresOf(result, candidate)));
      return label;
    });
    const isFocused = byId("candidate-list").contains(document.activeElement);
    byId("candidate-list").replaceChildren(...choices);
    if (isFocused) byId("candidate-list").querySelector(":checked")?.focus();
  }

  async #download(kind) {
    const blob = await this.#session.download(kind);
    if (!blob) return;
    const stem = this.#session.file.name.replace(/(\.nii)?\.[^.]*$/, "") || "image";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${stem}-${DOWNLOADS[kind]}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

/** Round to six significant digits, so that windows far below 1 are right, too. */
function round(value) {
  return Number(value.toPrecision(6));
}
