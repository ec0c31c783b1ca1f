/** The server's public routes, and the API key where it asks for one. Nothing here knows of the page. */

const KEY = "sam-api-key";

/** An answer that says what was wrong. `status` is 0 if the server could not be reached. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Api {
  /**
   * @param {(reason: string) => Promise<string | null>} askForKey Asks the user for an API key; null: none is given.
   * @param {URL} root Where the server's routes are.
   * @param {boolean} asksForLogin Whether the server itself does. The browser then adds no login and shows no dialog
   *   of its own; else it may, as a proxy in front can ask who is there.
   */
  constructor(askForKey, root, asksForLogin) {
    this.askForKey = askForKey;
    this.root = root;
    this.credentials = asksForLogin ? "omit" : "same-origin";
  }

  /** The models that can be used and the server's state: the body of `GET /health_check/`, ready or not. */
  async health() {
    const response = await this.#fetch("health_check/", {});
    return response.json();
  }

  /**
   * Segment.
   *
   * @param {object} samInput The request, `SAMInput` as in `/docs`.
   * @param {File | null} file The image; null to go on from `samInput.refine`.
   * @returns {Promise<{timestamp: string, facts: object, ms: number}>} The result's name, what the header `SAM-Result`
   *   says of it, and how long the answer took.
   */
  async segment(samInput, file = null) {
    const body = new FormData();
    if (file) body.append("file", file);
    body.append("sam_input", JSON.stringify(samInput));
    const started = performance.now();
    const response = await this.#ask("segment_input_image/", { method: "POST", body });
    const { timestamp } = await response.json();
    const facts = JSON.parse(response.headers.get("SAM-Result"));
    return { timestamp: String(timestamp), facts, ms: performance.now() - started };
  }

  /** One of a result's files as a blob. `kind`: overlay, contour, mask, image (PNG); sc, seg, source (DICOM). */
  async file(timestamp, kind, candidate = null) {
    const isDicom = ["sc", "seg", "source"].includes(kind);
    const query = new URLSearchParams(isDicom ? { type: kind } : { view: kind });
    if (candidate !== null) query.set("candidate", candidate);
    const route = isDicom ? "get_dicom_image" : "get_segmented_image";
    const response = await this.#ask(`${route}/${timestamp}?${query}`, {});
    return response.blob();
  }

  /** A request whose answer must be good. A 401 asks for the key, as often as it takes. */
  async #ask(path, options) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const response = await this.#fetch(path, { ...options, headers: key ? { Authorization: `Bearer ${key}` } : {} });
      if (response.ok) return response;
      const reason = await reasonOf(response);
      if (response.status !== 401) throw new ServerError(response.status, reason);
      sessionStorage.removeItem(KEY);
      const given = await this.askForKey(key ? "That key was not accepted." : "");
      if (!given) throw new ServerError(401, "The server asks for an API key, and none was given.");
      sessionStorage.setItem(KEY, given);
    }
  }

  async #fetch(path, options) {
    try {
      return await fetch(new URL(path, this.root), { cache: "no-store", credentials: this.credentials, ...options });
    } catch {
      throw new ServerError(0, "The server cannot be reached. Nothing is lost: try again when it is there.");
    }
  }
}

/** What an error answer says, in one sentence: `detail` is a text, or FastAPI's list of what is wrong where. */
async function reasonOf(response) {
  let detail;
  try {
    ({ detail } = await response.json());
  } catch {
    detail = null;
  }
  if (Array.isArray(detail)) {
    const where = (loc) => loc.filter((part) => part !== "body").join(", ");
    detail = detail.map(({ loc, msg }) => `${where(loc)}: ${msg}`).join("; ");
  }
  if (!detail) return `The server answered ${response.status} ${response.statusText}.`;
  return detail[0].toUpperCase() + detail.slice(1) + (/[.!?]$/.test(detail) ? "" : ".");
}
