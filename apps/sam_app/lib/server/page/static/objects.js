/** The panel of the objects: their list, the active one's prompts and candidates, work by hand, saving and downloads. */

import { nameOf } from "./annotation.js";
import { arrowStep } from "./arrows.js";
import { between, filled, largest, smoothed } from "./hand.js";
import { scoresOf } from "./session.js";
import { describeCandidate, describeMeasures, describePrompt, number } from "./words.js";

/** Downloads of all objects: what the server makes of the label maps, and the files' names. */
const EXPORTS = {
  labels: ["labels", "labels"],
  objects: ["seg", "labels.dcm"],
  rtstruct: ["rtstruct", "structures.dcm"],
  stl: ["stl", "surfaces.zip"],
};

const DOWNLOADS = {
  overlay: "overlay.png",
  mask: "mask.png",
  sc: "secondary-capture.dcm",
  seg: "segmentation.dcm",
};

const byId = (id) => document.getElementById(id);

const EYE = "M1 8s2.6-4.5 7-4.5S15 8 15 8s-2.6 4.5-7 4.5S1 8 1 8zM8 6a2 2 0 1 1 0 4 2 2 0 1 1 0-4z";
const BODY = "M3.5 7.5h9v6h-9z";

/** Lines of the icons, in a square of 16. */
const ICONS = {
  hide: EYE,
  "hide-on": `${EYE}M2 14L14 2`,
  lock: `${BODY}M10.5 7.5V5a2.5 2.5 0 0 1 5 0`,
  "lock-on": `${BODY}M5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5`,
  delete: "M4 4l8 8M12 4l-8 8",
};

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export class ObjectPanel {
  #session;
  #display;
  #palette;
  #announce;
  #items = byId("objects");
  #list = byId("prompts");
  #label = byId("label");

  /**
   * @param {import("./session.js").Session} session
   * @param {import("./display.js").Display} display
   * @param {number[][]} palette RGB by object number.
   * @param {(text: string) => void} announce
   */
  constructor(session, display, palette, announce) {
    this.#session = session;
    this.#display = display;
    this.#palette = palette;
    this.#announce = announce;
    this.#label.addEventListener("input", () => {
      session.changeItem(session.annotation.active.number, { name: this.#label.value.trim() });
    });
    byId("add-object").addEventListener("click", () => session.addItem());
    byId("find-all").addEventListener("click", () => this.#findAll());
    const multimask = byId("multimask");
    multimask.addEventListener("change", () => session.set({ multimask: multimask.checked }));
    for (const [id, work] of Object.entries({ fill: filled, largest, smooth: smoothed })) {
      byId(id).addEventListener("click", () => session.reshape(work));
    }
    byId("between").addEventListener("click", () => {
      const count = session.interpolate(between);
      announce(count ? `${number(count)} frames were filled` : "There is no frame between two with this object");
    });
    byId("follow").addEventListener("click", () => this.#follow());
    byId("stop-following").addEventListener("click", () => session.stopFollowing());
    byId("save-final").addEventListener("click", () => this.#save("final"));
    byId("save-draft").addEventListener("click", () => this.#save("draft"));
    for (const button of document.querySelectorAll("[data-download]")) {
      button.addEventListener("click", () => this.#download(button.dataset.download));
    }
  }

  show() {
    const { annotation, image, prompts, result, stored } = this.#session;
    this.#showItems(annotation);
    if (document.activeElement !== this.#label) this.#label.value = annotation.active.name;
    this.#showPrompts(prompts);
    this.#showCandidates(result);
    const isVolume = (image?.facts.shape[2] ?? 1) > 1;
    const hasMask = this.#measure();
    for (const id of ["fill", "largest", "smooth"]) byId(id).disabled = !hasMask;
    byId("volume-tools").hidden = !isVolume;
    for (const id of ["follow-from", "follow-to"]) byId(id).max = image?.facts.shape[2] ?? 1;
    byId("follow").hidden = this.#session.isFollowing;
    byId("stop-following").hidden = !this.#session.isFollowing;
    byId("save").hidden = !stored;
    this.#showTags();
    for (const id of ["add-object", "find-all"]) byId(id).disabled = !image;
    const hasLabels = image !== null && this.#session.labels.length > 0;
    for (const button of document.querySelectorAll("[data-download]")) {
      const { download } = button.dataset;
      button.disabled = !(download in EXPORTS ? hasLabels : result);
      if (["objects", "rtstruct"].includes(download)) button.hidden = image?.facts.format !== "DICOM";
      if (download === "stl") button.hidden = !isVolume || !image.facts.affine;
    }
  }

  /** Show what the active object measures; returns whether it has a mask on this frame. */
  #measure() {
    const { annotation, image } = this.#session;
    const text = byId("measures");
    if (!image) return false;
    const { number: active } = annotation.active;
    const found = this.#session.measure(active);
    const mean = found.here ? this.#display.mean(this.#session.seen(this.#session.wanted.frame), active) : null;
    text.textContent = describeMeasures({ ...found, mean }, image.facts.unit);
    return found.here > 0;
  }

  #showItems({ items, active }) {
    const focused = document.activeElement?.closest?.("#objects li")?.dataset.number;
    const action = document.activeElement?.dataset?.action;
    this.#items.replaceChildren(...items.map((item) => this.#item(item, item.number === active.number)));
    if (!focused) return;
    const row = this.#items.querySelector(`[data-number="${focused}"]`) ?? this.#items.lastElementChild;
    row.querySelector(action ? `[data-action=${action}]` : "input").focus();
  }

  #item(item, isActive) {
    const name = nameOf(item);
    const row = document.createElement("li");
    row.dataset.number = item.number;
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "object", checked: isActive });
    radio.addEventListener("change", () => this.#session.activate(item.number));
    label.append(radio, this.#swatch(item.number), name);
    const toggle = (action, isOn, text, work) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.append(icon(isOn ? `${action}-on` : action));
      button.dataset.action = action;
      if (isOn !== null) button.setAttribute("aria-pressed", isOn);
      button.setAttribute("aria-label", `${text} ${name}`);
      button.title = button.getAttribute("aria-label");
      button.addEventListener("click", work);
      return button;
    };
    const { number: n, isHidden, isLocked } = item;
    row.append(
      label,
      toggle("hide", isHidden, "Hide", () => this.#session.changeItem(n, { isHidden: !isHidden })),
      toggle("lock", isLocked, "Lock", () => this.#session.changeItem(n, { isLocked: !isLocked })),
      toggle("delete", null, "Delete", () => this.#session.removeItem(n)),
    );
    return row;
  }

  /** A spot in the object's colour; as a picture, since styles of single elements are forbidden here. */
  #swatch(n) {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1, className: "swatch" });
    canvas.setAttribute("aria-hidden", "true");
    const context = canvas.getContext("2d");
    context.fillStyle = `rgb(${this.#palette[n].join()})`;
    context.fillRect(0, 0, 1, 1);
    return canvas;
  }

  #showPrompts(prompts) {
    const focused = [...this.#list.children].findIndex((item) => item.contains(document.activeElement));
    const action = document.activeElement?.className;
    this.#list.replaceChildren(...prompts.map((prompt, index) => this.#prompt(prompt, index)));
    byId("no-prompts").hidden = prompts.length > 0;
    if (focused < 0) return;
    const next = this.#list.children[Math.min(focused, prompts.length - 1)];
    (next?.querySelector(`.${action}`) ?? byId("stage")).focus();
  }

  #prompt(prompt, index) {
    const text = describePrompt(prompt);
    const told = `${text[0].toLowerCase()}${text.slice(1)}`;
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.className = prompt.kind;
    name.textContent = text;
    const button = (className, sign, label) => {
      const made = Object.assign(document.createElement("button"), { type: "button", className, textContent: sign });
      made.setAttribute("aria-label", label);
      made.title = label;
      return made;
    };
    const move = button("move", "✥", `Move ${told} with the arrow keys`);
    move.addEventListener("keydown", (event) => {
      const step = arrowStep(event);
      if (!step) return;
      event.preventDefault();
      const moved = this.#display.shiftedPrompt(prompt, step);
      if (moved) this.#session.move(index, moved);
    });
    const remove = button("remove", "×", `Remove ${told}`);
    remove.addEventListener("click", () => this.#session.remove(index));
    item.append(name, move, remove);
    return item;
  }

  #showCandidates(result) {
    const count = result?.facts.candidates ?? 0;
    byId("candidates").hidden = count < 2;
    const choices = Array.from({ length: count }, (_, candidate) => {
      const label = document.createElement("label");
      const radio = document.createElement("input");
      Object.assign(radio, { type: "radio", name: "candidate", checked: candidate === result.candidate });
      radio.addEventListener("change", () => this.#session.choose(candidate));
      const small = this.#display.small(result, candidate, count, this.#session.annotation.active.number);
      label.append(radio, ...small, describeCandidate(candidate, scoresOf(result, candidate)));
      return label;
    });
    const isFocused = byId("candidate-list").contains(document.activeElement);
    byId("candidate-list").replaceChildren(...choices);
    if (isFocused) byId("candidate-list").querySelector(":checked")?.focus();
  }

  async #findAll() {
    const count = await this.#session.findAll();
    if (count === null) return;
    this.#announce(count ? `Found ${count === 1 ? "one object" : `${number(count)} objects`}` : "Nothing new was found");
  }

  async #follow() {
    const [from, to] = [byId("follow-from"), byId("follow-to")];
    if (![from, to].every((input) => input.reportValidity())) return;
    const ends = [from.value || from.min, to.value || to.max].map((frame) => Number(frame) - 1);
    const facts = await this.#session.follow(Math.min(...ends), Math.max(...ends));
    if (!facts) return;
    if (!facts.slices) return this.#announce("Nothing was found beyond the marked frames");
    const [first, last] = facts.slices.map((k) => number(k + 1));
    if (!facts.is_complete) return this.#announce(`Stopped: followed from frame ${first} to ${last} so far`);
    const doubtful = (facts.uncertain_slices ?? []).map((k) => number(k + 1));
    const look = doubtful.length ? `; look at frame ${doubtful.join(", ")}` : "";
    this.#announce(`Followed from frame ${first} to ${last}${look}`);
  }

  #showTags() {
    const buttons = this.#session.tags.map((tag) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: `Load ${tag}` });
      button.addEventListener("click", () => this.#load(tag));
      return button;
    });
    if (buttons.map(({ textContent }) => textContent).join() === byId("labels").dataset.shown) return;
    byId("labels").dataset.shown = buttons.map(({ textContent }) => textContent).join();
    byId("labels").replaceChildren(...buttons);
  }

  async #load(tag) {
    const loaded = await this.#session.load(tag);
    if (!loaded) return;
    const { count, notes } = loaded;
    const what = count ? `Loaded ${count === 1 ? "one object" : `${count} objects`}` : "The label is empty";
    this.#announce([what, ...notes].join("; "));
  }

  async #save(tag) {
    const names = await this.#session.save(tag);
    if (names) this.#announce(`Saved as ${tag}: ${names.join(", ")}`);
  }

  async #download(kind) {
    const [type, name] = EXPORTS[kind] ?? [kind, DOWNLOADS[kind]];
    const made = kind in EXPORTS ? await this.#session.exported(type) : { file: await this.#session.download(kind) };
    if (!made?.file) return;
    const stem = this.#session.name.replace(/(\.nii)?\.[^.]*$/, "") || "image";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(made.file);
    link.download = `${stem}-${name}${kind === "labels" ? made.suffix : ""}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}
