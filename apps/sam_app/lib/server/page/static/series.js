/** Dialog that asks which of several series is meant. */

import { choice } from "./choices.js";

const byId = (id) => document.getElementById(id);

/**
 * Ask the user for a series.
 *
 * @param {{uid: string, description: string, modality: string, images: number}[]} series
 * @returns {Promise<string | null>} Its UID; null if none was chosen.
 */
export function askForSeries(series) {
  const dialog = byId("series");
  return new Promise((resolve) => {
    const listening = new AbortController();
    const finish = (uid) => {
      listening.abort();
      dialog.close();
      resolve(uid);
    };
    const items = series.map(({ uid, description, modality, images }) => {
      const facts = [modality, images === 1 ? "1 image" : `${images} images`];
      return choice(description || uid, facts, () => finish(uid));
    });
    byId("series-list").replaceChildren(...items);
    byId("close-series").addEventListener("click", () => finish(null), { signal: listening.signal });
    dialog.addEventListener("cancel", () => finish(null), { signal: listening.signal });
    dialog.showModal();
  });
}
