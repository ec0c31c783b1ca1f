/** Client for the server's public routes, with the API key if one is needed. Independent of the page. */

const KEY = "sam-api-key";

/** Error response of the server. `status` is 0 if the server could not be reached. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Api {
  /**
   * @param {(reason: string) => Promise<string | null>} askForKey Asks the user for an API key; null: none was entered.
   * @param {URL} root Base URL of the server's routes.
   * @param {boolean} asksForLogin Whether the server itself needs a login. If so, the browser sends no login of its own
   *   and shows no login dialog; if not, it may, for a proxy in front of the server that needs a login.
   */
  constructor(askForKey, root, asksForLogin) {
    this.askForKey = askForKey;
    this.root = root;
    this.credentials = asksForLogin ? "omit" : "same-origin";
  }

  /** Return the usable models and the server's state: the body of `GET /health_check/`, whether ready or not. */
  async health() {
    const response = await this.#fetch("health_check/", {});
    return response.json();
  }

  /**
   * Request a segmentation.
   *
   * @param {object} samInput The request, `SAMInput` as in `/docs`.
   * @param {File | null} file The image; null to refine the result `samInput.refine`.
   * @returns {Promise<{timestamp: string, facts: object, ms: number}>} The result's name, the content of the header
   *   `SAM-Result`, and the time until the response.
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

  /** Download one of a result's files. `kind`: overlay, contour, mask, image (PNG); sc, seg, source (DICOM). */
  async file(timestamp, kind, candidate = null) {
    const isDicom = ["sc", "seg", "source"].includes(kind);
    const query = new URLSearchParams(isDicom ? { type: kind } : { view: kind });
    if (candidate !== null) query.set("candidate", candidate);
    const route = isDicom ? "get_dicom_image" : "get_segmented_image";
    const response = await this.#ask(`${route}/${timestamp}?${query}`, {});
    return response.blob();
  }

  /** Send a request and return its successful response. On a 401, ask the user for the key and repeat the request. */
  async #ask(path, options) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const response = await this.#fetch(path, { ...options, headers: key ? { Authorization: `Bearer ${key}` } : {} });
      if (response.ok) return response;
      const reason = await reasonOf(response);
      if (response.status !== 401) throw new ServerError(response.status, reason);
      sessionStorage.removeItem(KEY);
      const given = await this.askForKey(key ? "That key was not accepted." : "");
      if (!given) throw new ServerError(401, "The server asks for an API key, but none was entered.");
      sessionStorage.setItem(KEY, given);
    }
  }

  async #fetch(path, options) {
    try {
      return await fetch(new URL(path, this.root), { cache: "no-store", credentials: this.credentials, ...options });
    } catch {
      throw new ServerError(0, "The server cannot be reached. Nothing is lost: try again when it is back.");
    }
  }
}

/** Return the reason in an error response as one sentence: `detail` is a text, or FastAPI's list of invalid fields. */
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
  if (!detail) return `The server returned ${response.status} ${response.statusText}.`;
  return detail[0].toUpperCase() + detail.slice(1) + (/[.!?]$/.test(detail) ? "" : ".");
}
