/** Prompts and crosshair, drawn over the image at image pixels, with the same size on screen at any zoom. */

const SVG = "http://www.w3.org/2000/svg";
const RADIUS = 7;
const SIGN = 3.5;

/**
 * Redraw all prompts and the crosshair.
 *
 * @param {SVGSVGElement} svg Element that covers the image.
 * @param {{width: number, height: number, scale: number, prompts: object[], draft: object | null,
 *   crosshair: {x: number, y: number} | null}} scene `scale`: screen pixels per image pixel; `draft`: a box that is
 *   being drawn.
 */
export function drawMarks(svg, { width, height, scale, prompts, draft, crosshair }) {
  svg.setAttribute("viewBox", `0 0 ${width * scale} ${height * scale}`);
  const place = (pixel) => (pixel + 0.5) * scale; // the centre of the pixel
  const shapes = prompts.map((prompt) => (prompt.kind === "box" ? box(prompt, place) : point(prompt, place)));
  if (draft) shapes.push(box({ ...draft, kind: "draft" }, place));
  if (crosshair) shapes.push(cross(place(crosshair.x), place(crosshair.y), width * scale, height * scale));
  svg.replaceChildren(...shapes);
}

function point({ kind, x, y }, place) {
  const [left, top] = [place(x), place(y)];
  const sign = [line(left - SIGN, top, left + SIGN, top)];
  if (kind === "positive") sign.push(line(left, top - SIGN, left, top + SIGN));
  const disc = (name, r) => element("circle", { class: name, cx: left, cy: top, r });
  return element("g", { class: kind }, [disc("halo", RADIUS + 1), disc("disc", RADIUS), ...sign]);
}

function box({ kind, x, y, width, height }, place) {
  const corner = { x: place(Math.min(x, x + width)), y: place(Math.min(y, y + height)) };
  const size = { width: Math.abs(place(width) - place(0)), height: Math.abs(place(height) - place(0)) };
  const outline = (name) => element("rect", { class: name, ...corner, ...size });
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
