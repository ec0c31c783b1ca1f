/** Texts of the page for prompts, masks, candidates and windows. */

const NUMBER = new Intl.NumberFormat("en");
const SCORE = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const VALUE = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });

export const number = (value) => NUMBER.format(value);

/** "Positive point at 120, 88" */
export function describePrompt({ kind, x, y, width, height }) {
  if (kind === "box") return `Box from ${x}, ${y} to ${x + width}, ${y + height}`;
  return `${kind === "positive" ? "Positive" : "Negative"} point at ${x}, ${y}`;
}

/**
 * "Mask of 4,211 pixels, predicted IoU 0.87, 120 ms"
 *
 * @param {number[]} areas In pixels, one per object.
 * @param {number[]} scores Predicted IoU, one per object.
 * @param {number} ms Time until the response.
 */
export function describeMask(areas, scores, ms) {
  const took = `${number(Math.round(ms))} ms`;
  if (areas.length > 1) {
    const objects = areas.map((area, n) => `${n + 1}: ${number(area)} pixels, IoU ${SCORE.format(scores[n])}`);
    return `${areas.length} masks in ${took}. ${objects.join("; ")}`;
  }
  if (!areas[0]) return `The mask is empty, ${took}`;
  return `Mask of ${number(areas[0])} pixels, predicted IoU ${SCORE.format(scores[0])}, ${took}`;
}

/** "2nd: predicted IoU 0.87" */
export function describeCandidate(candidate, scores) {
  const rank = ["Best", "2nd", "3rd"][candidate];
  return `${rank}: predicted IoU ${scores.map((score) => SCORE.format(score)).join(", ")}`;
}

/** "40 / 400, from the file" */
export function describeWindow({ center, width, source }) {
  const [, name, why = ""] = /^(.*?)( \(.*\))?$/.exec(source);
  if (center === null) return (name === "image LUT" ? "from the file's VOI LUT" : "8-bit values as they are") + why;
  const from = { image: "from the file", percentiles: "from the image's percentiles", request: "as chosen here" };
  return `${VALUE.format(center)} / ${VALUE.format(width)}, ${from[name] ?? name}${why}`;
}
