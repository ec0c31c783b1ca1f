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

  /**
   * @param {import("./api.js").Api} api
   * @param {(image: {id: string, name: string, tags: string[]}) => void} open
   */
  constructor(api, open) {
    this.#api = api;
    this.#open = open;
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
    this.#list.replaceChildren(...found.slice(0, MOST_SHOWN).map((image) => this.#item(image)));
    const more = found.length > MOST_SHOWN ? `, the first ${MOST_SHOWN} are shown` : "";
    const all = this.#images.length;
    byId("study-status").textContent = all ? `${found.length} of ${all} images${more}` : "The server has no images yet.";
  }

  #item({ id, title, facts, tags }) {
    const about = [facts, tags.length ? `labelled: ${tags.join(", ")}` : ""];
    return choice(title, about, () => this.#choose({ id, name: title, tags }));
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
