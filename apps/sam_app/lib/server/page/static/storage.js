/**
 * Work that survives a reload: the open image's name and its masks, in this browser tab until it is closed. Prompts become
 * masks. Files of the user are found again by their session on the server.
 */

const KEY = "sam-work";
const AFTER_MS = 500;

const packed = new WeakMap();
let waiting = 0;

/** Keep the session's work a moment later; of several calls the last counts. @param {import("./session.js").Session} session */
export function keepSoon(session) {
  clearTimeout(waiting);
  waiting = setTimeout(() => keep(session), AFTER_MS);
}

/** Keep it now. */
export function keep(session) {
  clearTimeout(waiting);
  if (!session.image) return;
  const { annotation, wanted, origin } = session;
  const frames = session.labels.map(([k, labels]) => [k, pack(labels)]);
  const { name, id, tags } = origin;
  const work = { origin: { name, id, tags, session: session.source.session }, frame: wanted.frame, items: annotation.items, frames };
  try {
    sessionStorage.setItem(KEY, JSON.stringify(work));
  } catch {
    sessionStorage.removeItem(KEY); // more than fits: better nothing than what is old
  }
}

/**
 * Return the work that was kept; null if there is none.
 *
 * @returns {{origin: object, frame: number, items: object[], frames: Map<number, Uint8Array>} | null}
 */
export function kept() {
  try {
    const work = JSON.parse(sessionStorage.getItem(KEY));
    return work && { ...work, frames: new Map(work.frames.map(([k, text]) => [k, unpack(text)])) };
  } catch {
    return null;
  }
}

/** Return a label map as text: pairs of a label and how often it follows, in Base64. */
function pack(labels) {
  const known = packed.get(labels);
  if (known) return known;
  const runs = [];
  for (let start = 0; start < labels.length;) {
    let end = start + 1;
    while (end < labels.length && labels[end] === labels[start]) end += 1;
    runs.push(labels[start], end - start);
    start = end;
  }
  const bytes = new Uint8Array(Uint32Array.from(runs).buffer);
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  packed.set(labels, btoa(text));
  return packed.get(labels);
}

function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const runs = new Uint32Array(bytes.buffer);
  const labels = new Uint8Array(runs.reduce((sum, count, n) => sum + (n % 2 ? count : 0), 0));
  for (let run = 0, at = 0; run < runs.length; run += 2) {
    labels.fill(runs[run], at, at + runs[run + 1]);
    at += runs[run + 1];
  }
  return labels;
}
