/** Dialog with the server's images: to find one, open it, and see what is labelled. */

import { choice } from "./choices.js";

const byId = (id) => document.getElementById(id);

const MOST_SHOWN = 500;
const STRATEGY = "uncertainty";

export class Studies {
  #api;
  #open;
  #dialog = byId("studies");
  #list = byId("study-list");
  #images = [];
  #pictures = new Map(); // of images, by id: an address, or null if there is none
  #waiting = new Map(); // places for pictures that are in sight, by id
  #isFetching = false;
  #sight;

  /**
   * @param {import("./api.js").Api} api
   * @param {(image: {id: string, name: string, tags: string[]}) => void} open
   */
  constructor(api, open) {
    this.#api = api;
    this.#open = open;
    this.#sight = new IntersectionObserver((entries) => this.#seen(entries), { root: this.#list });
    byId("open-studies").addEventListener("click", () => this.show());
    byId("close-studies").addEventListener("click", () => this.#dialog.close());
    byId("next-study").addEventListener("click", () => this.#next());
    for (const id of ["study-filter", "study-labelled"]) byId(id).addEventListener("input", () => this.#fill());
  }

  async show() {
    byId("study-status").textContent = "Asking the server…";
    this.#list.replaceChildren();
    if (!this.#dialog.open) this.#dialog.showModal();
    await this.#telling(async () => {
      this.#images = (await this.#api.images()).map(described);
      this.#images.sort((one, other) => one.text.localeCompare(other.text));
      this.#fill();
    });
  }

  #fill() {
    const words = byId("study-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = byId("study-labelled").value;
    const found = this.#images.filter(({ text, isLabelled }) => {
      const isState = !state || isLabelled === (state === "labelled");
      return isState && words.every((word) => text.toLowerCase().includes(word));
    });
    this.#sight.disconnect();
    this.#waiting.clear();
    this.#list.replaceChildren(...found.slice(0, MOST_SHOWN).map((image) => this.#item(image)));
    const more = found.length > MOST_SHOWN ? `, the first ${MOST_SHOWN} are shown` : "";
    const all = this.#images.length;
    byId("study-status").textContent = all ? `${found.length} of ${all} images${more}` : "The server has no images yet.";
  }

  #item({ id, title, facts, tags }) {
    const about = [facts, tags.length ? `labelled: ${tags.join(", ")}` : ""];
    const place = Object.assign(document.createElement("span"), { className: "thumbnail" });
    place.dataset.id = id;
    if (this.#pictures.has(id)) this.#show(place);
    else this.#sight.observe(place);
    return choice(title, about, () => this.#choose({ id, name: title, tags }), [place]);
  }

  #show(place) {
    const src = this.#pictures.get(place.dataset.id);
    if (src) place.replaceChildren(Object.assign(document.createElement("img"), { src, alt: "" }));
  }

  #seen(entries) {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) this.#waiting.set(target.dataset.id, target);
      else this.#waiting.delete(target.dataset.id);
    }
    if (!this.#isFetching) this.#fetchPictures();
  }

  /** Fetch the pictures of the items in sight, one after the other, while the dialog is open. */
  async #fetchPictures() {
    this.#isFetching = true;
    while (this.#waiting.size && this.#dialog.open) {
      const [[id, place]] = this.#waiting;
      this.#waiting.delete(id);
      this.#sight.unobserve(place);
      const picture = await this.#api.thumbnail(id).catch(() => null); // the list is of use without it
      this.#pictures.set(id, picture && URL.createObjectURL(picture));
      this.#show(place);
    }
    this.#isFetching = false;
  }

  async #next() {
    await this.#telling(async () => {
      const id = await this.#api.nextImage(STRATEGY);
      if (!id) byId("study-status").textContent = "Every image has a final label.";
      else {
        const known = this.#images.find((image) => image.id === id);
        this.#choose({ id, name: known?.title ?? id, tags: known?.tags ?? [] });
      }
    });
  }

  #choose(image) {
    this.#dialog.close();
    this.#open(image);
  }

  async #telling(work) {
    try {
      await work();
    } catch (error) {
      byId("study-status").textContent = error.message;
    }
  }
}

/** Return an image's title, what else is known of it, and the tags of its labels. @param {object} image As listed. */
function described({ id, patient, date, modality, description, labels }) {
  const title = patient ? [patient, description].filter(Boolean).join(", ") : id;
  const facts = [modality, date, patient ? "" : description].filter(Boolean).join(" · ");
  return { id, title, facts, tags: labels, isLabelled: labels.includes("final"), text: `${title} ${facts} ${id}` };
}
