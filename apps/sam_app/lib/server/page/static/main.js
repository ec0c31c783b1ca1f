/** Entry point: connects the page's parts. */

import { Api } from "./api.js";
import { Settings } from "./controls.js";
import { Display } from "./display.js";
import { dropped } from "./files.js";
import { listen } from "./gestures.js";
import { Hover } from "./hover.js";
import { askForKey } from "./key.js";
import { ObjectPanel } from "./objects.js";
import { askForSeries } from "./series.js";
import { Session, scoresOf } from "./session.js";
import { Stage } from "./stage.js";
import { keep, keepSoon, kept } from "./storage.js";
import { Studies } from "./studies.js";
import { describeMask, number } from "./words.js";

const HEALTH_EVERY_MS = 2000;
const SAY_POSITION_AFTER_MS = 400;

const byId = (id) => document.getElementById(id);

const constants = await (await fetch(new URL("constants.json", import.meta.url))).json();
const api = new Api(askForKey, askForSeries, new URL("../../", import.meta.url), constants.asksForLogin);
const session = new Session(api);
const stage = new Stage(constants.palette);
const display = new Display(session, stage);
const hover = new Hover(session, stage);
const settings = new Settings(session, display, constants.windows);
const objectPanel = new ObjectPanel(session, display, constants.palette, announce);
const studies = new Studies(api, (image) => openStored(image));

let saidPosition = 0;
let shows = 0;
let announced = null;

/** Set the text of the status line, which assistive technology reads out. */
function say(text) {
  const status = byId("status");
  if (status.textContent !== text) status.textContent = text;
}

/** Say what came of something that the user did; it stands until the next change. */
function announce(text) {
  announced = { text, changes: session.changes };
  say(text);
}

/** Return a pixel of the picture as prompts name it. */
function nameOf(pixel) {
  const { x, y } = stage.stored(pixel);
  return `${x}, ${y}`;
}

function showPosition(pixel, isByKey) {
  byId("position").textContent = display.describe(pixel);
  if (!isByKey) return;
  clearTimeout(saidPosition);
  saidPosition = setTimeout(() => { byId("spoken-position").textContent = nameOf(pixel); }, SAY_POSITION_AFTER_MS);
}

function showAlert() {
  const { error } = session;
  byId("alert").classList.toggle("active", error !== null);
  byId("alert-text").textContent = error?.message ?? "";
}

function enableTools() {
  const { hasImage } = stage;
  for (const id of ["mode", "size", "view", "opacity", "zoom-in", "zoom-out", "zoom-fit"]) byId(id).disabled = !hasImage;
  byId("undo").disabled = !session.canUndo;
  byId("redo").disabled = !session.canRedo;
  byId("clear").disabled = !session.canClear;
  stage.element.tabIndex = hasImage ? 0 : -1;
  byId("empty").hidden = hasImage;
}

/** Add a prompt in pixels of the picture. */
function add(prompt) {
  if (!display.isCurrent) return say("Nothing was added: the picture is still loading");
  return session.add(stage.storedPrompt(prompt));
}

/** Put a prompt elsewhere, in pixels of the picture. */
function move(index, prompt) {
  if (!display.isCurrent) return say("Nothing was moved: the picture is still loading");
  if (prompt.kind === "box" && !(prompt.width && prompt.height)) return say("A box needs two different corners; it stays");
  return session.move(index, stage.storedPrompt(prompt));
}

/** Show what is drawn with the brush or the eraser, and at its end make it so. Points are pixels of the picture. */
function brush(points, isEraser, isEnd) {
  if (!display.isCurrent) return say("Nothing was drawn: the picture is still loading");
  const stored = points.map((point) => stage.stored(point));
  const size = byId("size").valueAsNumber || 1;
  if (isEnd) session.brush(stored, size, isEraser);
  else display.showMasks(session.brushed(stored, size, isEraser));
}

/** Return a description of the active object's mask on this frame; null if there is neither mask nor prompt. */
function describeShown() {
  const { result } = session;
  const area = session.measure(session.annotation.active.number).here;
  if (result) return describeMask(area, scoresOf(result, result.candidate), result.ms);
  return area ? describeMask(area, [], 0) : null;
}

function describeFollowing() {
  if (!session.followed) return "Following through the volume…";
  const [first, last] = session.followed.map((k) => number(k + 1));
  return `Following: frames ${first} to ${last} so far…`;
}

function sayState() {
  const { image, name, opening, isDone, isBusy, error } = session;
  if (error) return say("");
  if (opening) return say(`Opening ${opening.name}…`);
  if (!image) return say("Choose an image to begin.");
  if (session.isFollowing) return say(describeFollowing());
  if (isBusy && !isDone) return say("Segmenting…");
  if (announced?.changes === session.changes) return say(announced.text);
  const shown = describeShown();
  if (shown) return say(shown);
  if (!isDone) return undefined;
  const [columns, rows] = image.facts.shape;
  return say(`${name}: ${columns} × ${rows} pixels. No prompts yet.`);
}

function describePictures() {
  const { facts, planes } = session.image;
  const [columns, rows, frames] = facts.shape;
  const frame = frames > 1 ? `, frame ${session.wanted.frame + 1} of ${frames}` : "";
  const [left, right] = planes[0].letters;
  const sides = left ? `, ${planes[0].name}, ${left} on the left, ${right} on the right` : "";
  const image = `${session.name}, ${columns} × ${rows} pixels${frame}${sides}`;
  stage.describe(image, describeShown() ?? "No mask");
}

function setBusy(isBusy) {
  stage.element.setAttribute("aria-busy", isBusy);
  byId("viewport").classList.toggle("busy", isBusy);
}

/** Update the page to the session's state. Prompts are shown at once, pictures when they are there. */
async function show() {
  shows += 1;
  const thisShow = shows;
  stage.setPrompts(display.isCurrent ? session.prompts : []);
  if (session.isBusy || (session.image && !display.isCurrent)) setBusy(true);
  stage.element.classList.toggle("stale", !display.isCurrent);
  showAlert();
  objectPanel.show();
  settings.show();
  if (session.image) {
    try {
      await display.showFrame();
      if (thisShow !== shows) return;
      stage.setPrompts(session.prompts);
      display.showMasks();
      describePictures();
      stage.element.classList.toggle("stale", !display.isCurrent);
    } catch (error) {
      if (thisShow !== shows) return;
      if (session.error?.message !== error.message) return session.report(error); // which calls this again
    }
  }
  enableTools();
  sayState();
  setBusy(session.isBusy);
}

/** Open files of the user, unless work would be lost that the user wants to keep. @param {File[]} files */
function openFiles(files) {
  if (!files.length || !mayReplace()) return;
  const name = files.length > 1 ? `${files[0].name} and ${files.length - 1} more` : files[0].name;
  session.open({ name, files });
}

function openStored(image) {
  if (mayReplace()) session.open(image);
}

/** Offer images to try, while there is none. @param {Record<string, string>} samples Titles by name. */
function offerSamples(samples) {
  const buttons = Object.entries(samples).map(([name, title]) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: `Try: ${title}` });
    button.addEventListener("click", async () => {
      try {
        openFiles([new File([await api.bytes(`sam/page/samples/${name}`)], name)]);
      } catch (error) {
        session.report(error);
      }
    });
    return button;
  });
  byId("samples").replaceChildren(...buttons);
}

/** Offer the server's labels as names of objects, once there is an image: then the login is known. */
async function offerNames() {
  if (byId("label-names").childElementCount || !session.image) return;
  session.removeEventListener("change", offerNames);
  const names = await api.labelNames().catch(() => []); // any name will do
  byId("label-names").replaceChildren(...names.map((name) => new Option(name)));
}

function mayReplace() {
  const { isUnsaved, name } = session;
  return !isUnsaved || window.confirm(`What was drawn on ${name} is not saved. Open another image all the same?`);
}

async function drop(transfer) {
  try {
    const files = await dropped(transfer);
    if (files.length === 1) byId("file").files = transfer.files; // shows the file's name, also after drag and drop
    openFiles(files);
  } catch (error) {
    session.report(error);
  }
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
  byId("file").addEventListener("change", (event) => openFiles([...event.target.files]));
  byId("undo").addEventListener("click", () => session.undo());
  byId("redo").addEventListener("click", () => session.redo());
  byId("clear").addEventListener("click", () => session.clear());
  byId("retry").addEventListener("click", () => session.retry());
  byId("dismiss").addEventListener("click", () => session.report(null));
  byId("zoom-in").addEventListener("click", () => stage.zoom.by(1));
  byId("zoom-out").addEventListener("click", () => stage.zoom.by(-1));
  byId("zoom-fit").addEventListener("click", () => stage.zoom.fit());
  const showView = () => {
    const view = document.querySelector("input[name=view]:checked").value;
    display.setView(view, byId("opacity").valueAsNumber / 100);
  };
  for (const id of ["view", "opacity"]) byId(id).addEventListener("input", showView);

  listen(stage, {
    mode: () => document.querySelector("input[name=mode]:checked").value,
    choose: (number) => document.querySelectorAll("input[name=mode]")[number - 1].click(),
    size: () => byId("size").valueAsNumber || 1,
    resize: (step) => byId("size").stepUp(step),
    add,
    move,
    brush,
    stopBrush: () => display.showMasks(),
    name: nameOf,
    undo: () => session.undo(),
    redo: () => session.redo(),
    frame: (step) => settings.step(step),
    hasFrames: () => settings.hasFrames,
    hover: (pixel) => hover.at(display.isCurrent ? pixel : null),
    at: showPosition,
    crosshairMoved: () => display.crosshairMoved(),
    window: (right, down) => display.dragWindow(right, down),
    say,
  });

  byId("open-help").addEventListener("click", () => byId("help").showModal());
  byId("close-help").addEventListener("click", () => byId("help").close());

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input[type=text], input[type=search], input[type=number], input[type=password]");
    const key = event.key.toLowerCase();
    if (key === "?" && !isTyping && !document.querySelector("dialog[open]")) return byId("help").showModal();
    if (isTyping || !(event.ctrlKey || event.metaKey) || !["z", "y"].includes(key)) return;
    event.preventDefault();
    if (key === "y" || event.shiftKey) session.redo();
    else session.undo();
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

window.addEventListener("beforeunload", (event) => {
  if (session.isUnsaved) event.preventDefault();
});
window.addEventListener("pagehide", () => keep(session));

connect();
offerSamples(constants.samples);
session.addEventListener("change", () => keepSoon(session));
session.addEventListener("change", offerNames);
const work = kept();
if (work) session.open(work.origin, work);
enableTools();
watchHealth();
