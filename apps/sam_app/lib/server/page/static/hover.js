/** What a click would mark, shown while the pointer rests or moves, where the server answers quickly enough for it. */

const EVERY_MS = 120;
const MOST_MS = 100; // for an answer, at the median; a slower server is not asked any more
const COUNT = 7;

export class Hover {
  #session;
  #stage;
  #wanted = null;
  #isAsking = false;
  #times = [];

  /** @param {import("./session.js").Session} session @param {import("./stage.js").Stage} stage */
  constructor(session, stage) {
    this.#session = session;
    this.#stage = stage;
  }

  /** The pointer is over a pixel of the picture; null: it is elsewhere, or does something else. */
  at(pixel) {
    const last = this.#wanted;
    if (pixel && last && pixel.x === last.x && pixel.y === last.y) return;
    this.#wanted = pixel;
    this.#stage.showHint(null);
    if (pixel && !this.#isAsking && this.#isQuick) this.#ask();
  }

  get #isQuick() {
    if (this.#times.length < COUNT) return true;
    return [...this.#times].sort((one, other) => one - other)[Math.floor(COUNT / 2)] <= MOST_MS;
  }

  async #ask() {
    this.#isAsking = true;
    let shown = null;
    while (this.#wanted && this.#wanted !== shown && this.#isQuick) {
      shown = this.#wanted;
      const started = performance.now();
      const mask = await this.#session.preview(this.#stage.stored(shown));
      if (mask) this.#times = [...this.#times, performance.now() - started].slice(-COUNT);
      if (mask && shown === this.#wanted) this.#stage.showHint(mask);
      await new Promise((done) => { setTimeout(done, EVERY_MS); });
    }
    this.#isAsking = false;
  }
}
