/** Entry point: connects the page's parts. */

import { Api } from "./api.js";
import { ObjectPanel, Settings } from "./controls.js";
import { listen } from "./gestures.js";
import { askForKey } from "./key.js";
import { Session, scoresOf } from "./session.js";
import { Stage } from "./stage.js";
import { describeMask } from "./words.js";

const HEALTH_EVERY_MS = 2000;
const ONE_FILE = "this page takes one file at a time, such as a volume in NIfTI";
const SAY_POSITION_AFTER_MS = 400;

const byId = (id) => document.getElementById(id);

const constants = await (await fetch(new URL("constants.json", import.meta.url))).json();
const api = new Api(askForKey, new URL("../../", import.meta.url), constants.asksForLogin);
const session = new Session(api);
const stage = new Stage(constants.palette);
const settings = new Settings(session, constants.windows);
const objectPanel = new ObjectPanel(session);

let saidPosition = 0;
let shownResult = null;

/** Set the text of the status line, which assistive technology reads out. */
function say(text) {
  const status = byId("status");
  if (status.textContent !== text) status.textContent = text;
}

function showPosition({ x, y }, isByKey) {
  byId("position").textContent = `x ${x}, y ${y}`;
  if (!isByKey) return;
  clearTimeout(saidPosition);
  saidPosition = setTimeout(() => { byId("spoken-position").textContent = `${x}, ${y}`; }, SAY_POSITION_AFTER_MS);
}

function showAlert() {
  const { error } = session;
  byId("alert").classList.toggle("active", error !== null);
  byId("alert-text").textContent = error?.message ?? "";
}

function enableTools() {
  const { hasImage } = stage;
  for (const id of ["mode", "view", "zoom-in", "zoom-out", "zoom-fit"]) byId(id).disabled = !hasImage;
  byId("undo").disabled = !session.canUndo;
  byId("clear").disabled = session.prompts.length === 0;
  stage.element.tabIndex = hasImage ? 0 : -1;
  byId("empty").hidden = hasImage;
}

/** Return whether the displayed picture is that of the wanted frame and window; prompts on another would be wrong. */
function isPictureCurrent() {
  return stage.image !== null && stage.image === session.nearest?.image;
}

function add(prompt) {
  if (isPictureCurrent()) session.add(prompt);
  else say("Nothing was added: the picture is still loading");
}

/** Return a description of the displayed mask. */
function describeShown(result) {
  const { areas, scores } = result.facts; // of the best candidate; they include overlaps, unlike those of the label map
  const shown = result.candidate ? stage.areas(scores.length) : areas;
  return describeMask(shown, scoresOf(result, result.candidate), result.ms);
}

function sayState() {
  const { result, file, isBusy, error } = session;
  if (error) return say("");
  if (!file) return say("Choose an image to begin.");
  if (isBusy && !result) return say(session.prompts.length ? "Segmenting…" : `Opening ${file.name}…`);
  if (!result) return undefined;
  if (result.prompts.length) return say(describeShown(result));
  return say(`${file.name}: ${stage.size.width} × ${stage.size.height} pixels. No prompts yet.`);
}

function describePictures(result) {
  const { slice, frames } = result.facts;
  const frame = frames > 1 ? `, frame ${slice + 1} of ${frames}` : "";
  const image = `${session.file.name}, ${stage.size.width} × ${stage.size.height} pixels${frame}`;
  stage.describe(image, result.prompts.length ? describeShown(result) : "No mask");
}

function setBusy(isBusy) {
  stage.element.setAttribute("aria-busy", isBusy);
  byId("viewport").classList.toggle("busy", isBusy);
}

/** Update the page to the session's state. Prompts are shown at once, pictures when they are decoded. */
async function show() {
  const result = session.nearest;
  stage.setPrompts(session.prompts);
  if (session.isBusy) setBusy(true);
  stage.element.classList.toggle("stale", !isPictureCurrent());
  showAlert();
  objectPanel.show();
  if (result) {
    shownResult = result;
    settings.show(result);
    await stage.show(result.image, result.masks.get(result.candidate) ?? null);
    if (result !== shownResult) return;
    stage.element.classList.toggle("stale", !isPictureCurrent());
    describePictures(result);
  }
  enableTools();
  sayState();
  setBusy(session.isBusy);
}

/** @param {FileList} files */
function open(files) {
  if (!files.length) return;
  if (files.length > 1) {
    session.report(new Error(`These are ${files.length} files: ${ONE_FILE}.`));
    return;
  }
  byId("file").files = files; // shows the file's name, also after drag and drop
  settings.reset();
  session.open(files[0]);
}

function drop({ items, files }) {
  const isFolder = [...items].some((item) => item.webkitGetAsEntry()?.isDirectory);
  if (isFolder) session.report(new Error(`This is a folder: ${ONE_FILE}.`));
  else open(files);
}

/** Show the server's state, and update it until the server is ready. */
async function watchHealth() {
  try {
    const health = await api.health();
    const state =
      { ok: "", degraded: `, ${health.detail}`, loading: ", loading the model…" }[health.status] ??
      `, not ready: ${health.detail}`;
    byId("server").textContent = `Version ${health.version}, ${health.device}${state}`;
    settings.setModels(health);
    if (health.status === "ok" || health.status === "degraded") return;
  } catch (error) {
    byId("server").textContent = error.message;
  }
  setTimeout(watchHealth, HEALTH_EVERY_MS);
}

function connect() {
  session.addEventListener("change", show);
  byId("file").addEventListener("change", (event) => open(event.target.files));
  byId("undo").addEventListener("click", () => session.undo());
  byId("clear").addEventListener("click", () => session.clear());
  byId("retry").addEventListener("click", () => session.retry());
  byId("dismiss").addEventListener("click", () => session.report(null));
  byId("zoom-in").addEventListener("click", () => stage.zoom.by(1));
  byId("zoom-out").addEventListener("click", () => stage.zoom.by(-1));
  byId("zoom-fit").addEventListener("click", () => stage.zoom.fit());
  byId("view").addEventListener("change", (event) => stage.setView(event.target.value));

  listen(stage, {
    mode: () => document.querySelector("input[name=mode]:checked").value,
    add,
    undo: () => session.undo(),
    frame: (step) => settings.step(step),
    hasFrames: () => settings.hasFrames,
    at: showPosition,
    say,
  });

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input[type=text], input[type=number], input[type=password]");
    if (isTyping || !(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    session.undo();
  });

  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("viewport").classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("viewport").classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("viewport").classList.remove("dropping");
    drop(event.dataTransfer);
  });
}

connect();
enableTools();
watchHealth();
