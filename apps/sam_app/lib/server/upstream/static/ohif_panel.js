/**
 * Adds to MONAI Label's panel in OHIF, which stays as it is: *Run* that works again after an error, the server's own
 * words about it, and the buttons *Undo*, *Box*, *Load from PACS* and *Store in PACS*. OHIF's *Export DICOM SEG* goes
 * through the server, too: its own does not reach the PACS, and puts masks on the wrong slices where the first slice of
 * a series is the lowest.
 *
 * It works through what OHIF has on its page: `services`, `commandsManager`, `cornerstone`, `cornerstoneTools`, and the
 * panel's own components. Where one of these is not found, as in another OHIF, nothing is added: OHIF works as before.
 *
 * @typedef {[number, number, number]} Voxel i, j, k: column, row, slice.
 * @typedef {{uid: string, label: string, tool: string, voxels: Voxel[], k: number}} Prompt A point, or a box's corners.
 */

const RUN = '.modelSelector button[title="Run PointPrompts"]';
const POINT = "ProbeMONAILabel";
const BOX = "RectangleROI";
const BACKGROUND = "background";

/** The plugin's segmentation, which its masks are written to. */
const SEGMENTATION = "1";

/** Stands for the slices of a volume, where one slice is meant. */
const WHOLE = -1;

/** The React component that shows an element and has a method; null if there is none. */
function componentOf(element, method) {
  const key = Object.keys(element).find((name) => name.startsWith("__reactFiber$"));
  for (let fiber = element[key]; fiber; fiber = fiber.return) {
    if (typeof fiber.stateNode?.[method] === "function") return fiber.stateNode;
  }
  return null;
}

/** The places of a number in an array. */
function* placesOf(array, number) {
  for (let place = array.indexOf(number); place >= 0; place = array.indexOf(number, place + 1)) yield place;
}

/** From the first to the last i, j and k of voxels. */
function regionOf(voxels) {
  return [0, 1, 2].flatMap((axis) => {
    const along = voxels.map((voxel) => voxel[axis]);
    return [Math.min(...along), Math.max(...along)];
  });
}

/** Something that the user can do otherwise; the message says how. */
class Refusal extends Error {}

/** Say why something was not done. */
function tellFailure(error) {
  if (!(error instanceof Refusal)) console.error(error);
  tell(error instanceof Refusal ? error.message : `This does not work in this OHIF: ${error.message}.`, "error");
}

/** Show a message as OHIF shows its own. */
function tell(message, type = "info") {
  window.services.uiNotificationService.show({ title: "MONAI Label", message, type, duration: 8000 });
}

/** What the server says about a refused request; its status if it says nothing. */
function detailOf(request) {
  const body = request.response;
  try {
    const text = body instanceof ArrayBuffer ? new TextDecoder().decode(body) : body;
    const { detail } = typeof text === "string" ? JSON.parse(text) : text;
    const said = Array.isArray(detail) ? detail.map((one) => one.msg).join("; ") : detail;
    if (said) return String(said);
  } catch {
    // not JSON: a proxy's page
  }
  return request.status ? `the server answered ${request.status}` : "the server cannot be reached";
}

/** Have the server's words shown for each request of the plugin that it refuses. */
function showRefusals() {
  const { open } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function (method, url, ...others) {
    const isPlugins = /\/(infer|train|datastore|activelearning)\//.test(String(url));
    if (isPlugins && String(method).toUpperCase() !== "GET") {
      this.addEventListener("loadend", () => {
        if (this.status === 0 || this.status >= 400) tell(detailOf(this), "error");
      });
    }
    return open.call(this, method, url, ...others);
  };
}

/** Let *Run* work again after an error in what it does: the plugin then keeps it waiting for the end of that. */
function reviveAfterErrors() {
  window.addEventListener("unhandledrejection", () => {
    for (const button of document.querySelectorAll(".modelSelector button")) {
      const selector = componentOf(button, "onClickBtn");
      if (selector?.state?.buttonDisabled) selector.setState({ buttonDisabled: false });
    }
  });
}

/** MONAI Label's panel for points, with our buttons. */
class Panel {
  /** When each prompt was set, by its identifier. */
  #order = new Map();
  /** What was there before the first prompt, by label and slice: `uids` of the prompts, voxels by slice. */
  #before = new Map();
  /** Labels that were loaded, which prompts correct. */
  #loaded = new Set();
  #lastLabel = null;

  /**
   * @param {HTMLButtonElement} run The plugin's button.
   * @param {object} tab The component of its points.
   */
  constructor(run, tab) {
    this.run = run;
    this.tab = tab;
    this.select = run.closest(".modelSelector").querySelector("select");
    this.bar = document.createElement("div");
    this.bar.id = "samPanel";
    this.bar.style.cssText = "display: flex; flex-wrap: wrap; gap: 6px; margin-top: 10px";
    this.#button("Undo", "Take the last point or box back", () => this.undo());
    this.box = this.#button("Box", "Drag a box around the object, on its slice", () => this.startBox());
    this.#button("Load from PACS", "Continue with the newest segmentation of this series", () => this.load());
    this.#button("Store in PACS", "Store the segmentation as DICOM SEG", () => this.store());
    run.closest(".modelSelector").append(this.bar);
    run.addEventListener("click", (event) => {
      event.stopPropagation(); // the plugin's own would follow
      this.#do(() => this.segment(this.label(), this.#sliceToRun()));
    });
    this.select.addEventListener("change", () => this.#keepPrompts());
    const events = window.cornerstoneTools.Enums.Events;
    this.#listen(events.ANNOTATION_ADDED, ({ annotation }) => this.#note(annotation.annotationUID));
    this.#listen(events.ANNOTATION_COMPLETED, ({ annotation }) => {
      this.#note(annotation.annotationUID);
      if (annotation.metadata.toolName === BOX) this.#do(() => this.#endBox(annotation));
    });
  }

  /** Whether this OHIF has what is needed. */
  static fits(run, tab) {
    const { services, cornerstone, cornerstoneTools, commandsManager } = window;
    const needed = [
      ...["onChangeLabel", "getSelectedModel", "getModelLabels", "setState"].map((name) => tab?.[name]),
      ...["client", "updateView", "onOptionsConfig", "getActiveViewportInfo"].map((name) => tab?.props?.[name]),
      run.closest(".modelSelector")?.querySelector("select")?.addEventListener,
      commandsManager?.runCommand,
      cornerstone?.triggerEvent,
      cornerstone?.cache?.getImage,
      cornerstoneTools?.annotation?.state?.getAnnotationManager,
      cornerstoneTools?.annotation?.state?.removeAnnotation,
      services?.uiNotificationService?.show,
      services?.segmentationService?.getLabelmapVolume,
      services?.segmentationService?.getSegmentation,
      services?.displaySetService?.getActiveDisplaySets,
      services?.toolGroupService?.getToolGroupForViewport,
      services?.cornerstoneViewportService?.getViewportInfo,
    ];
    return needed.every((one) => typeof one === "function") && Boolean(tab.state?.clickPoints);
  }

  #button(text, title, act) {
    const button = document.createElement("button");
    Object.assign(button, { className: "actionButton", type: "button", textContent: text, title });
    button.addEventListener("click", () => this.#do(act));
    this.bar.append(button);
    return button;
  }

  #listen(name, act) {
    const { eventTarget } = window.cornerstone;
    const listener = (event) => {
      if (this.bar.isConnected) act(event.detail);
      else eventTarget.removeEventListener(name, listener);
    };
    eventTarget.addEventListener(name, listener);
  }

  /** Do one thing at a time, and say what went wrong. */
  async #do(act) {
    if (this.#isBusy) return;
    this.#isBusy = true;
    try {
      await act();
    } catch (error) {
      tellFailure(error);
    } finally {
      this.#isBusy = false;
    }
  }

  get #isBusy() {
    return this.bar.getAttribute("aria-busy") === "true";
  }

  set #isBusy(is) {
    this.bar.setAttribute("aria-busy", String(is));
    for (const button of this.bar.children) {
      button.disabled = is;
      button.style.opacity = is ? "0.5" : "";
    }
  }

  #note(uid) {
    if (!this.#order.has(uid)) this.#order.set(uid, this.#order.size);
  }

  /** The label to segment: the chosen one; with *background* chosen, the last one. */
  label() {
    const { currentLabel } = this.tab.state;
    const label = currentLabel === BACKGROUND ? this.#lastLabel : currentLabel;
    if (!label) throw new Refusal("Choose an organ in the list below, then click into it in the image.");
    return label;
  }

  get #isFlat() {
    return this.tab.props.info.data.models[this.tab.getSelectedModel()].dimension === 2;
  }

  get #series() {
    return this.tab.props.getActiveViewportInfo().displaySet.SeriesInstanceUID;
  }

  /** The prompts of a label and of the background, in the order in which they were set. */
  #prompts(label) {
    this.#savePrompts();
    const { clickPoints } = this.tab.state;
    const { viewport } = this.tab.props.getActiveViewportInfo();
    const info = window.services.cornerstoneViewportService.getViewportInfo(viewport.viewportId);
    const { imageData } = info.viewportData.data[0].volume;
    const found = [label, BACKGROUND].flatMap((name) =>
      Object.values(clickPoints[name] ?? {}).flatMap((tools) =>
        [POINT, BOX].flatMap((tool) =>
          (tools[tool] ?? []).map(({ annotationUID, data }) => {
            const voxels = data.handles.points.map((place) => [...imageData.worldToIndex(place)].map(Math.round));
            return { uid: annotationUID, label: name, tool, voxels, k: voxels[0][2] };
          }),
        ),
      ),
    );
    const when = ({ uid }) => this.#order.get(uid) ?? -1;
    return found.sort((a, b) => when(a) - when(b));
  }

  /** Put the prompts in view, which are those of the chosen label, to the others. */
  #savePrompts() {
    const { currentLabel, clickPoints } = this.tab.state;
    const manager = window.cornerstoneTools.annotation.state.getAnnotationManager();
    if (currentLabel) clickPoints[currentLabel] = manager.saveAnnotations(null, POINT);
  }

  /** Keep label and prompts when another model is chosen: the plugin takes them away. */
  #keepPrompts() {
    this.#savePrompts();
    const { currentLabel, clickPoints } = this.tab.state;
    setTimeout(() => {
      this.tab.setState({ clickPoints }, () => {
        const labels = [BACKGROUND, ...this.tab.getModelLabels(this.tab.getSelectedModel())];
        if (labels.includes(currentLabel)) this.tab.onChangeLabel(currentLabel);
        this.#render();
      });
    });
  }

  #remove({ uid, label, tool }) {
    const { clickPoints, currentLabel } = this.tab.state;
    if (label === currentLabel) window.cornerstoneTools.annotation.state.removeAnnotation(uid);
    for (const tools of Object.values(clickPoints[label] ?? {})) {
      if (tools[tool]) tools[tool] = tools[tool].filter(({ annotationUID }) => annotationUID !== uid);
    }
    this.#render();
  }

  #render() {
    window.services.cornerstoneViewportService.getRenderingEngine()?.render();
  }

  /** The slice whose prompts *Run* sends to a model for slices: that of the label's last prompt. */
  #sliceToRun() {
    const prompts = this.#prompts(this.label());
    return (prompts.findLast(({ label }) => label !== BACKGROUND) ?? prompts.at(-1))?.k;
  }

  /**
   * Ask the server for a label's mask and show it.
   * @param {string} label
   * @param {number} slice For a model for slices.
   */
  async segment(label, slice) {
    const model = this.tab.getSelectedModel();
    const isFlat = this.#isFlat;
    const prompts = this.#prompts(label).filter(({ k }) => !isFlat || k === slice);
    const own = prompts.filter((one) => one.label !== BACKGROUND);
    if (!own.length) throw new Refusal(`Nothing marks the ${label} yet: click into it, or drag a box around it.`);
    this.#lastLabel = label;
    const points = (list) => list.filter(({ tool }) => tool === POINT).map(({ voxels }) => voxels[0]);
    const params = {
      ...this.tab.props.onOptionsConfig()?.infer?.[model],
      label,
      foreground: points(own),
      background: points(prompts.filter((one) => one.label === BACKGROUND)),
    };
    const box = own.findLast(({ tool }) => tool === BOX);
    if (box) params.roi = regionOf(box.voxels);
    const before = this.#rememberBefore(label, isFlat ? slice : WHOLE, prompts);
    let start = null;
    if (this.#loaded.has(label) && [...before.values()].some((voxels) => voxels.length)) {
      params.start_from_label = true;
      start = [{ name: "label", data: this.#volumeOf(before), fileName: "label.bin" }];
    }
    const { status, ...response } = await this.tab.props.client().infer(model, this.#series, params, start);
    if (status !== 200) return;
    this.#write(label, isFlat ? slice : WHOLE, new Map()); // an empty answer would leave it as it is
    await this.tab.props.updateView(response, model, [label], true, true, isFlat ? slice : WHOLE);
  }

  /** Take the last prompt back: the mask is then that of the others or, without others, what was there before. */
  async undo() {
    const label = this.label();
    const last = this.#prompts(label).at(-1);
    if (!last) throw new Refusal(`There is no point or box of the ${label} to take back.`);
    this.#remove(last);
    const isLeft = this.#prompts(label).some((one) => one.label !== BACKGROUND && (!this.#isFlat || one.k === last.k));
    if (isLeft) {
      await this.segment(label, last.k);
    } else {
      const key = `${label}|${this.#isFlat ? last.k : WHOLE}`;
      const before = this.#before.get(key);
      this.#before.delete(key);
      if (before) this.#write(label, this.#isFlat ? last.k : WHOLE, before.voxels);
    }
  }

  /** Let the user drag a box, or end that. */
  startBox() {
    const label = this.label();
    if (this.#isDrawing) {
      this.#usePoints();
      return;
    }
    if (this.tab.state.currentLabel === BACKGROUND) this.tab.onChangeLabel(label);
    const { viewport } = this.tab.props.getActiveViewportInfo();
    const group = window.services.toolGroupService.getToolGroupForViewport(viewport.viewportId);
    if (!group.hasTool(BOX)) group.addTool(BOX, { getTextLines: () => [] });
    window.commandsManager.runCommand("setToolActive", { toolName: BOX });
    this.#isDrawing = true;
    tell(`Drag a box around the ${label} on its slice.`);
  }

  get #isDrawing() {
    return this.box.getAttribute("aria-pressed") === "true";
  }

  set #isDrawing(is) {
    this.box.setAttribute("aria-pressed", String(is));
    this.box.style.outline = is ? "2px solid white" : "";
  }

  #usePoints() {
    this.#isDrawing = false;
    window.commandsManager.runCommand("setToolActive", { toolName: POINT });
  }

  /** Use a box that was just drawn in place of an earlier one on its slice. */
  async #endBox({ annotationUID }) {
    this.#usePoints();
    const label = this.label();
    const boxes = this.#prompts(label).filter(({ tool }) => tool === BOX);
    const drawn = boxes.find(({ uid }) => uid === annotationUID);
    if (!drawn) return;
    if (drawn.voxels.some(([, , k]) => k !== drawn.k)) {
      this.#remove(drawn);
      throw new Refusal("Drag the box where the slices are shown as they were acquired: a box is on one of them.");
    }
    for (const box of boxes) if (box !== drawn && (box.k === drawn.k || !this.#isFlat)) this.#remove(box);
    await this.segment(label, drawn.k);
  }

  /** Store all masks. */
  store() {
    return store(SEGMENTATION, this.tab.props.client().server_url, this.tab.getSelectedModel());
  }

  /** Show the newest DICOM SEG of the series, as OHIF reads it, in place of the masks; prompts then correct it. */
  async load() {
    const { displaySetService } = window.services;
    const found = displaySetService
      .getActiveDisplaySets()
      .filter((one) => one.Modality === "SEG" && one.referencedSeriesInstanceUID === this.#series);
    const when = ({ instance }) => `${instance.ContentDate} ${instance.ContentTime}`;
    const newest = found.reduce((best, one) => (best && when(best) >= when(one) ? best : one), null);
    if (!newest) throw new Refusal("There was no DICOM SEG of this series in the PACS when the study was opened.");
    await newest.load({ headers: {} });
    if (newest.overlappingSegments) throw new Refusal("The segments of this DICOM SEG overlap: that cannot be shown.");
    const stored = new Map(newest.images.map((image) => [image.referencedImageId, image.voxelManager.getScalarData()]));
    const images = this.#images;
    if (!images.every(({ referencedImageId }) => stored.has(referencedImageId))) throw new Error("it has other slices");
    const segments = newest.segMetadata.data.filter(Boolean);
    const [known, others] = [true, false].map((is) =>
      segments.filter(({ SegmentLabel }) => Boolean(this.#numberOf(SegmentLabel)) === is),
    );
    for (const { referencedImageId, voxelManager } of images) {
      const labels = voxelManager.getScalarData().fill(0);
      for (const { SegmentNumber, SegmentLabel } of known) {
        const number = this.#numberOf(SegmentLabel);
        for (const place of placesOf(stored.get(referencedImageId), Number(SegmentNumber))) labels[place] = number;
      }
    }
    this.#before.clear();
    this.#loaded = new Set(known.map(({ SegmentLabel }) => SegmentLabel));
    this.#showChange();
    const names = (list) => list.map(({ SegmentLabel }) => SegmentLabel).join(", ");
    const left = others.length ? ` Left out, as the list has no such organ: ${names(others)}.` : "";
    const [, year, month, day, hour, minute] = when(newest).match(/^(....)(..)(..) (..)(..)/) ?? [];
    const of = year ? `, as stored on ${year}-${month}-${day} at ${hour}:${minute}` : "";
    tell(`Loaded: ${names(known) || "nothing"}${of}.${left}`, known.length ? "success" : "warning");
  }

  get #segments() {
    return Object.values(window.services.segmentationService.getSegmentation(SEGMENTATION).segments).filter(Boolean);
  }

  #numberOf(label) {
    return this.#segments.find((one) => one.label === label)?.segmentIndex;
  }

  get #images() {
    const { imageIds } = window.services.segmentationService.getLabelmapVolume(SEGMENTATION);
    return imageIds.map((id) => window.cornerstone.cache.getImage(id));
  }

  /** The slices of the mask, each the voxels' labels. */
  get #slices() {
    return this.#images.map((image) => image.voxelManager.getScalarData());
  }

  /** What of a label was there before its prompts: by slice, the places of its voxels. */
  #rememberBefore(label, slice, prompts) {
    const key = `${label}|${slice}`;
    const known = this.#before.get(key);
    const uids = new Set(prompts.map(({ uid }) => uid));
    if (known && [...known.uids].some((uid) => uids.has(uid))) {
      for (const uid of uids) known.uids.add(uid);
      return known.voxels;
    }
    const number = this.#numberOf(label);
    const voxels = new Map();
    this.#slices.forEach((labels, k) => {
      if (slice !== WHOLE && slice !== k) return;
      const places = [...placesOf(labels, number)];
      if (places.length) voxels.set(k, Uint32Array.from(places));
    });
    this.#before.set(key, { uids, voxels });
    return voxels;
  }

  /** Replace a label on a slice, or on all; voxels of other labels stay. */
  #write(label, slice, voxels) {
    const number = this.#numberOf(label);
    this.#slices.forEach((labels, k) => {
      if (slice !== WHOLE && slice !== k) return;
      for (const place of placesOf(labels, number)) labels[place] = 0;
      for (const place of voxels.get(k) ?? []) if (!labels[place]) labels[place] = number;
    });
    this.#showChange();
  }

  #showChange() {
    const { cornerstone, cornerstoneTools } = window;
    const changed = cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
    cornerstone.triggerEvent(cornerstone.eventTarget, changed, { segmentationId: SEGMENTATION });
  }

  /** A volume of one byte a voxel, 1 in these places. */
  #volumeOf(voxels) {
    const slices = this.#slices;
    const size = slices[0].length;
    const volume = new Uint8Array(size * slices.length);
    for (const [k, places] of voxels) for (const place of places) volume[k * size + place] = 1;
    return new Blob([volume]);
  }
}

/** The mask of a segmentation as NRRD, placed in the patient, so that the server can see on which slices it lies. */
function nrrdOf(images) {
  const { metaData } = window.cornerstone;
  const planes = images.map(({ referencedImageId }) => metaData.get("imagePlaneModule", referencedImageId));
  const [first, last] = [planes[0], planes.at(-1)];
  const scaled = (direction, by) => [...direction].map((value) => value * by);
  const steps = Math.max(planes.length - 1, 1);
  const between = first.imagePositionPatient.map((value, n) => (last.imagePositionPatient[n] - value) / steps);
  const [r, c] = [first.rowCosines, first.columnCosines];
  const normal = [r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2], r[0] * c[1] - r[1] * c[0]];
  const axes = [
    scaled(r, first.columnPixelSpacing),
    scaled(c, first.rowPixelSpacing),
    planes.length > 1 ? between : normal,
  ];
  const vector = (values) => `(${[...values].join(",")})`;
  const header = [
    "NRRD0004",
    "type: uint8",
    "dimension: 3",
    "space: left-posterior-superior",
    `sizes: ${first.columns} ${first.rows} ${planes.length}`,
    `space directions: ${axes.map(vector).join(" ")}`,
    `space origin: ${vector(first.imagePositionPatient)}`,
    "kinds: domain domain domain",
    "encoding: raw",
  ];
  return new Blob([`${header.join("\n")}\n\n`, ...images.map(({ voxelManager }) => voxelManager.getScalarData())]);
}

/**
 * Store a segmentation of OHIF's as the series' label: the server makes a DICOM SEG of it in the PACS.
 * @param {string} segmentation Its identifier.
 * @param {string | URL} server The server's address.
 * @param {string} [model_name] What made the masks.
 */
async function store(segmentation, server, model_name) {
  const { cornerstone, services } = window;
  const { segments, representationData } = services.segmentationService.getSegmentation(segmentation);
  const { imageIds } = services.segmentationService.getLabelmapVolume(segmentation) ?? representationData.Labelmap;
  const images = imageIds.map((id) => cornerstone.cache.getImage(id));
  const there = Object.values(segments).filter(
    (one) => one && images.some(({ voxelManager }) => voxelManager.getScalarData().includes(one.segmentIndex)),
  );
  if (!there.length) throw new Refusal("There is no mask to store yet.");
  const { seriesInstanceUID } = cornerstone.metaData.get("generalSeriesModule", images[0].referencedImageId);
  const url = new URL("datastore/label", server);
  url.search = new URLSearchParams({ image: seriesInstanceUID, tag: "final" });
  const form = new FormData();
  const label_info = there.map(({ label, segmentIndex }) => ({ name: label, idx: segmentIndex, model_name }));
  form.append("params", JSON.stringify({ label_info }));
  form.append("label", nrrdOf(images), "label.nrrd");
  const answer = await fetch(url, { method: "PUT", body: form });
  if (!answer.ok) throw new Refusal(detailOf({ response: await answer.text(), status: answer.status }));
  tell(`Stored in the PACS as DICOM SEG: ${there.map(({ label }) => label).join(", ")}.`, "success");
}

/** Have OHIF's *Export DICOM SEG* store through the server, too. */
function replaceExport() {
  const command = window.commandsManager?.contexts?.SEGMENTATION?.storeSegmentation;
  if (!command?.commandFn || command.commandFn === exportSegmentation) return;
  command.commandFn = exportSegmentation;
}

async function exportSegmentation({ segmentationId }) {
  try {
    await store(segmentationId, `${location.origin}/`);
  } catch (error) {
    tellFailure(error);
  }
}

/** Add the buttons to the panel as soon as it is there, and again when it is made anew. */
function addButtons() {
  const run = document.querySelector(RUN);
  if (!run || document.getElementById("samPanel")) return;
  const tab = componentOf(run, "onRunInference");
  if (Panel.fits(run, tab)) new Panel(run, tab);
}

showRefusals();
reviveAfterErrors();
const changes = new MutationObserver(() => {
  addButtons();
  replaceExport();
});
changes.observe(document.documentElement, { childList: true, subtree: true });
