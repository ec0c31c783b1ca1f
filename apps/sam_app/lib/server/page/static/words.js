/** Texts of the page for prompts, masks, candidates and windows. */

const NUMBER = new Intl.NumberFormat("en");
const SCORE = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const VALUE = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });

const DOUBTFUL = 0.5; // predicted IoU

export const number = (value) => NUMBER.format(value);

/** "Positive point at 120, 88" */
export function describePrompt({ kind, x, y, width, height, points, positive }) {
  if (points) {
    const name = `${positive ? "" : "Negative "}${kind}`;
    return `${name[0].toUpperCase()}${name.slice(1)} from ${points[0].x}, ${points[0].y}, ${number(points.length)} points`;
  }
  if (kind === "box") return `Box from ${x}, ${y} to ${x + width}, ${y + height}`;
  return `${kind === "positive" ? "Positive" : "Negative"} point at ${x}, ${y}`;
}

/**
 * "Mask of 4,211 pixels, predicted IoU 0.87, 120 ms"
 *
 * @param {number} area In pixels.
 * @param {number[]} scores Predicted IoU of its parts; none if it was not made by a model alone.
 * @param {number} ms Time until the response.
 */
export function describeMask(area, scores, ms) {
  if (!scores.length) return `Mask of ${number(area)} pixels`;
  const took = `${number(Math.round(ms))} ms`;
  if (!area) return `The mask is empty, ${took}`;
  const worst = Math.min(...scores);
  const warning = worst < DOUBTFUL ? ": the model doubts it, look closely" : "";
  return `Mask of ${number(area)} pixels, predicted IoU ${SCORE.format(worst)}, ${took}${warning}`;
}

/** "212 mm² here, 12.3 ml in all, mean 48 HU" */
export function describeMeasures({ here, all, area, volume, mean }, unit) {
  if (!all) return "";
  const onFrame = area === null ? `${number(here)} pixels` : `${VALUE.format(rounded(area))} mm²`;
  const inAll = volume === null ? `${number(all)} pixels` : `${VALUE.format(rounded(volume / 1000))} ml`;
  const grey = mean === null ? "" : `, mean ${describeValue([rounded(mean)], unit)}`;
  return `${onFrame} here, ${inAll} in all${grey}`;
}

function rounded(value) {
  return Number(value.toPrecision(3));
}

/** "2nd: predicted IoU 0.87" */
export function describeCandidate(candidate, scores) {
  const rank = ["Best", "2nd", "3rd"][candidate];
  return `${rank}: predicted IoU ${scores.map((score) => SCORE.format(score)).join(", ")}`;
}

/** "40 HU" @param {number[]} values One, or red, green and blue. @param {string} unit May be empty. */
export function describeValue(values, unit) {
  const text = values.map((value) => VALUE.format(value)).join(", ");
  return unit ? `${text} ${unit}` : text;
}

/** "40 / 400, from the file" */
export function describeWindow({ center, width, source }) {
  const [, name, why = ""] = /^(.*?)( \(.*\))?$/.exec(source);
  if (center === null) return (name === "image LUT" ? "from the file's VOI LUT" : "8-bit values as they are") + why;
  const from = { image: "from the file", percentiles: "from the image's percentiles", request: "as chosen here" };
  return `${VALUE.format(center)} / ${VALUE.format(width)}, ${from[name] ?? name}${why}`;
}
