/** Prompts and crosshair, drawn over a picture at its pixels, with the same size on screen at any zoom. */

const SVG = "http://www.w3.org/2000/svg";
const RADIUS = 7;
const SIGN = 3.5;

/**
 * Redraw all prompts and the crosshair.
 *
 * @param {SVGSVGElement} svg Element that covers the image.
 * @param {{width: number, height: number, scale: {x: number, y: number}, prompts: object[], draft: object | null,
 *   brush?: {x: number, y: number, size: number} | null, crosshair: {x: number, y: number} | null}} scene `scale`:
 *   screen pixels per pixel of the picture; `draft`: a prompt that is being drawn.
 */
export function drawMarks(svg, { width, height, scale, prompts, draft, brush, crosshair }) {
  svg.setAttribute("viewBox", `0 0 ${width * scale.x} ${height * scale.y}`);
  const place = ({ x, y }) => [(x + 0.5) * scale.x, (y + 0.5) * scale.y]; // the centre of the pixel
  const shapes = prompts.map((prompt) => shape(prompt, place, scale));
  if (draft) shapes.push(element("g", { class: "draft" }, [shape(draft, place, scale)]));
  if (brush) shapes.push(ring(brush, place, scale));
  if (crosshair) shapes.push(cross(...place(crosshair), width * scale.x, height * scale.y));
  svg.replaceChildren(...shapes);
}

function shape(prompt, place, scale) {
  if (prompt.kind === "box") return box(prompt, place);
  return prompt.points ? drawing(prompt, place, scale) : point(prompt, place);
}

/** A scribble as wide as it is, or a lasso with its last point joined to the first. */
function drawing({ kind, points, width, positive }, place, scale) {
  const way = points.map((pixel) => place(pixel).join()).join(" ");
  const isLasso = kind === "lasso";
  const name = isLasso ? "polygon" : "polyline";
  const wide = isLasso ? {} : { "stroke-width": Math.max(2, width * Math.min(scale.x, scale.y)) };
  const lines = [element(name, { class: "halo", points: way }), element(name, { class: "line", points: way, ...wide })];
  return element("g", { class: `${kind} ${positive ? "positive" : "negative"}` }, lines);
}

function ring({ size, ...pixel }, place, scale) {
  const [cx, cy] = place(pixel);
  const of = (name) => element("ellipse", { class: name, cx, cy, rx: (size * scale.x) / 2, ry: (size * scale.y) / 2 });
  return element("g", { class: "brush" }, [of("halo"), of("line")]);
}

function point({ kind, ...pixel }, place) {
  const [left, top] = place(pixel);
  const sign = [line(left - SIGN, top, left + SIGN, top)];
  if (kind === "positive") sign.push(line(left, top - SIGN, left, top + SIGN));
  const disc = (name, r) => element("circle", { class: name, cx: left, cy: top, r });
  return element("g", { class: kind }, [disc("halo", RADIUS + 1), disc("disc", RADIUS), ...sign]);
}

function box({ kind, x, y, width, height }, place) {
  const [left, top] = place({ x: Math.min(x, x + width), y: Math.min(y, y + height) });
  const [right, bottom] = place({ x: Math.max(x, x + width), y: Math.max(y, y + height) });
  const outline = (name) => element("rect", { class: name, x: left, y: top, width: right - left, height: bottom - top });
  return element("g", { class: kind }, [outline("halo"), outline("line")]);
}

function cross(x, y, width, height) {
  const gap = 5;
  const arms = (name) =>
    element("g", { class: name }, [
      line(0, y, x - gap, y),
      line(x + gap, y, width, y),
      line(x, 0, x, y - gap),
      line(x, y + gap, x, height),
    ]);
  return element("g", { class: "crosshair" }, [arms("halo"), arms("line")]);
}

function line(x1, y1, x2, y2) {
  return element("line", { x1, y1, x2, y2 });
}

function element(name, attributes, children = []) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
