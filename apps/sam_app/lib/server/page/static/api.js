/** Client for the server's public routes, with the API key if one is needed. Independent of the page. */

const KEY = "sam-api-key";

/** Error response of the server. `status` is 0 if the server could not be reached. */
export class ServerError extends Error {
  /** @param {number} status @param {string} message @param {object[]} [series] Those that were sent, if they are several. */
  constructor(status, message, series) {
    super(message);
    this.status = status;
    this.series = series;
  }
}

export class Api {
  /**
   * @param {(reason: string) => Promise<string | null>} askForKey Asks the user for an API key; null: none was entered.
   * @param {(series: object[]) => Promise<string | null>} askForSeries Asks which of several series is meant; null: none.
   * @param {URL} root Base URL of the server's routes.
   * @param {boolean} asksForLogin Whether the server itself needs a login. If so, the browser sends no login of its own
   *   and shows no login dialog; if not, it may, for a proxy in front of the server that needs a login.
   */
  constructor(askForKey, askForSeries, root, asksForLogin) {
    this.askForKey = askForKey;
    this.askForSeries = askForSeries;
    this.root = root;
    this.credentials = asksForLogin ? "omit" : "same-origin";
  }

  /** Return the usable models and the server's state: the body of `GET /health_check/`, whether ready or not. */
  async health() {
    const response = await this.#fetch("health_check/", {});
    return response.json();
  }

  /** Send an image's files, to be kept for a while; returns its session. @param {File[]} files */
  async send(files) {
    const body = new FormData();
    for (const file of files) body.append("files", file, file.webkitRelativePath || file.name);
    const send = (query) => this.#ask(`session/${query}`, { method: "PUT", body });
    const response = await send("").catch(async (error) => {
      if (!error.series) throw error;
      const uid = await this.askForSeries(error.series);
      if (!uid) throw new Error("Nothing was opened, as no series was chosen.");
      return send(`?${new URLSearchParams({ series: uid })}`);
    });
    return (await response.json()).session_id;
  }

  /**
   * Request a segmentation.
   *
   * @param {object} samInput The request, `SAMInput` as in `/docs`.
   * @param {Blob | null} mask The mask to start from.
   * @returns {Promise<{timestamp: string, facts: object, ms: number, mask: Blob}>} The result's name, the content of the
   *   header `SAM-Result`, the time until the response, and object numbers as PNG.
   */
  async segment(samInput, mask = null) {
    const body = new FormData();
    body.append("sam_input", JSON.stringify(samInput));
    if (mask) body.append("mask", mask, "mask.png");
    const started = performance.now();
    const headers = { Prefer: "return=representation" };
    const response = await this.#ask("segment_input_image/", { method: "POST", body, headers });
    const ms = performance.now() - started;
    const [, timestamp] = /get_segmented_image\/([\d.]+)/.exec(response.headers.get("Content-Location"));
    const facts = JSON.parse(response.headers.get("SAM-Result"));
    return { timestamp, facts, ms, mask: await response.blob() };
  }

  /**
   * Run a model through a volume.
   *
   * @param {string} model
   * @param {{image?: string, session?: string}} source One of the two.
   * @param {object} params As of `/infer`.
   * @param {AbortSignal} signal Stops waiting.
   * @returns {Promise<{facts: object, file: Blob}>} What is known of the result, and the label map.
   */
  async infer(model, { image, session }, params, signal) {
    const query = new URLSearchParams(image ? { image } : { session_id: session });
    const body = new FormData();
    body.append("params", JSON.stringify(params));
    const response = await this.#ask(`infer/${model}?${query}`, { method: "POST", body, signal });
    const parts = await response.formData();
    return { facts: JSON.parse(parts.get("params")), file: parts.get("image") };
  }

  /** Return the server's images: `ListedImage` as in `/docs`. @returns {Promise<object[]>} */
  async images() {
    const response = await this.#ask("images/", {});
    return response.json();
  }

  /** Return the names of the labels that the server is for. @returns {Promise<string[]>} */
  async labelNames() {
    const response = await this.#ask("info/", {});
    const { labels } = await response.json();
    return Array.isArray(labels) ? labels : Object.keys(labels ?? {});
  }

  /** Return the id of the image that should be labelled next. @param {string} strategy Of active learning. */
  async nextImage(strategy) {
    const body = JSON.stringify({});
    const headers = { "Content-Type": "application/json" };
    const response = await this.#ask(`activelearning/${strategy}`, { method: "POST", body, headers });
    return (await response.json()).id ?? null;
  }

  /** Return an image's label on its voxels, the names of its objects, and what should be known of it. */
  async label({ image, version }, tag) {
    const path = `images/${encodeURIComponent(image)}/labels/${encodeURIComponent(tag)}`;
    const response = await this.#ask(`${path}?${new URLSearchParams({ version })}`, {});
    const listed = (name) => JSON.parse(response.headers.get(name) ?? "[]");
    return { file: await response.blob(), names: listed("SAM-Labels"), notes: listed("SAM-Notes") };
  }

  /**
   * Return labels in another format.
   *
   * @param {string} path Of the image's routes.
   * @param {"seg" | "rtstruct" | "stl"} type
   * @param {{name: string, idx: number}[]} info Names of the objects.
   */
  async convert(path, type, file, suffix, info) {
    const body = new FormData();
    body.append("params", JSON.stringify({ label_info: info }));
    body.append("label", file, `label${suffix}`);
    const response = await this.#ask(`${path}/export?type=${type}`, { method: "POST", body });
    return response.blob();
  }

  /** Store an image's label. @param {{name: string, idx: number}[]} info Names of the objects. */
  async saveLabel(image, tag, file, suffix, info) {
    const body = new FormData();
    body.append("params", JSON.stringify({ label_info: info }));
    body.append("label", file, `label${suffix}`);
    await this.#ask(`datastore/label?${new URLSearchParams({ image, tag })}`, { method: "PUT", body });
  }

  /** Return what is needed to show an image: `ViewedImage` as in `/docs`. @param {string} path Of the image's route. */
  async facts(path) {
    const response = await this.#ask(path, {});
    return response.json();
  }

  /** Return a small picture of an image of the server; null: there is none. @returns {Promise<Blob | null>} */
  async thumbnail(image) {
    const response = await this.#ask(`images/${encodeURIComponent(image)}/thumbnail`, {});
    return response.status === 204 ? null : response.blob();
  }

  /** Return the mask that a point would mark, as a picture; null: it is not known at once. @param {object} query */
  async preview({ path, facts }, query) {
    const response = await this.#ask(`${path}/preview?${new URLSearchParams({ version: facts.version, ...query })}`, {});
    return response.status === 204 ? null : response.blob();
  }

  /** Return the bytes of a slice, or of a sample. @param {string} path Of the route. @returns {Promise<ArrayBuffer>} */
  async bytes(path) {
    const response = await this.#ask(path, {});
    return response.arrayBuffer();
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
      const login = key ? { Authorization: `Bearer ${key}` } : {};
      const response = await this.#fetch(path, { ...options, headers: { ...options.headers, ...login } });
      if (response.ok) return response;
      const { reason, series } = await reasonOf(response);
      if (response.status !== 401) throw new ServerError(response.status, reason, series);
      sessionStorage.removeItem(KEY);
      const given = await this.askForKey(key ? "That key was not accepted." : "");
      if (!given) throw new ServerError(401, "The server asks for an API key, but none was entered.");
      sessionStorage.setItem(KEY, given);
    }
  }

  async #fetch(path, options) {
    try {
      return await fetch(new URL(path, this.root), { cache: "no-store", credentials: this.credentials, ...options });
    } catch (error) {
      if (options.signal?.aborted) throw options.signal.reason;
      throw new ServerError(0, "The server cannot be reached. Nothing is lost: try again when it is back.");
    }
  }
}

/** Return the reason in an error response as one sentence, and what it lists. */
async function reasonOf(response) {
  const body = await response.json().catch(() => ({}));
  return { reason: sentence(body.detail, response), series: body.series };
}

/** Return `detail`, a text or FastAPI's list of invalid fields, as one sentence. */
function sentence(said, response) {
  let detail = said;
  if (Array.isArray(detail)) {
    const where = (loc) => loc.filter((part) => part !== "body").join(", ");
    detail = detail.map(({ loc, msg }) => `${where(loc)}: ${msg}`).join("; ");
  }
  if (!detail) return `The server returned ${response.status} ${response.statusText}.`;
  return detail[0].toUpperCase() + detail.slice(1) + (/[.!?]$/.test(detail) ? "" : ".");
}
