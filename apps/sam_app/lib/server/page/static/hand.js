/** Work on masks by hand: brush, fill, largest piece, smoothing, slices in between, and a mask's outline. All in pixels of a frame. */

/** @typedef {{x: number, y: number}} Pixel */

const NEIGHBOURS = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]]; // clockwise, y down

/**
 * Mark the pixels under a brush that is drawn along a line.
 *
 * @param {Uint8Array} mask Gets 1 there.
 * @param {number} width Of the frame.
 * @param {Pixel[]} points
 * @param {number} size The brush's diameter.
 */
export function stamp(mask, width, points, size) {
  const height = mask.length / width;
  const radius = size / 2;
  points.forEach((point, n) => {
    const from = points[Math.max(0, n - 1)];
    const steps = Math.max(1, Math.ceil(Math.hypot(point.x - from.x, point.y - from.y)));
    for (let step = 1; step <= steps; step += 1) {
      const x = from.x + ((point.x - from.x) * step) / steps;
      const y = from.y + ((point.y - from.y) * step) / steps;
      for (let row = Math.max(0, Math.ceil(y - radius)); row <= Math.min(height - 1, y + radius); row += 1) {
        const half = Math.sqrt(Math.max(0, radius * radius - (row - y) ** 2));
        const first = Math.max(0, Math.ceil(x - half));
        for (let column = first; column <= Math.min(width - 1, x + half); column += 1) mask[row * width + column] = 1;
      }
      mask[Math.round(y) * width + Math.round(x)] = 1; // also with the thinnest brush
    }
  });
}

/** Return a mask without its holes: the background that does not reach the frame's border. */
export function filled(mask, width) {
  const outside = new Uint8Array(mask.length);
  const height = mask.length / width;
  const edge = [];
  for (let x = 0; x < width; x += 1) edge.push(x, (height - 1) * width + x);
  for (let y = 0; y < height; y += 1) edge.push(y * width, y * width + width - 1);
  flood(edge, width, mask.length, (pixel) => {
    if (mask[pixel] || outside[pixel]) return false;
    outside[pixel] = 1;
    return true;
  });
  return outside.map((is) => 1 - is);
}

/** Return the largest piece of a mask, over edges. */
export function largest(mask, width) {
  const pieces = new Uint32Array(mask.length);
  let best = { number: 0, size: 0 };
  for (let start = 0, number = 0; start < mask.length; start += 1) {
    if (!mask[start] || pieces[start]) continue;
    number += 1;
    let size = 0;
    flood([start], width, mask.length, (pixel) => {
      if (!mask[pixel] || pieces[pixel]) return false;
      pieces[pixel] = number;
      size += 1;
      return true;
    });
    if (size > best.size) best = { number, size };
  }
  return mask.map((_, pixel) => (best.size && pieces[pixel] === best.number ? 1 : 0));
}

/** Return a mask with a smoother border: each pixel as most of the 5×5 around it are. */
export function smoothed(mask, width) {
  const height = mask.length / width;
  const reach = 2;
  const sums = new Uint32Array((width + 1) * (height + 1)); // of all pixels above and left of each corner
  for (let y = 0; y < height; y += 1) {
    for (let x = 0, row = 0; x < width; x += 1) {
      row += mask[y * width + x];
      sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
    }
  }
  return mask.map((_, pixel) => {
    const [x, y] = [pixel % width, Math.floor(pixel / width)];
    const [left, right] = [Math.max(0, x - reach), Math.min(width, x + reach + 1)];
    const [top, bottom] = [Math.max(0, y - reach), Math.min(height, y + reach + 1)];
    const at = (row, column) => sums[row * (width + 1) + column];
    const sum = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left);
    return 2 * sum > (right - left) * (bottom - top) ? 1 : 0;
  });
}

/**
 * Return the masks between two masks, as their signed distances from the border change evenly from one to the other
 * (S. P. Raya and J. K. Udupa, "Shape-based interpolation of multidimensional objects", 1990).
 *
 * @param {Uint8Array} one
 * @param {Uint8Array} other
 * @param {number} width
 * @param {number} count Of masks between them.
 * @returns {Uint8Array[]}
 */
export function between(one, other, width, count) {
  const [from, to] = [depths(one, width), depths(other, width)];
  return Array.from({ length: count }, (_, n) => {
    const share = (n + 1) / (count + 1);
    return one.map((_, pixel) => (from[pixel] * (1 - share) + to[pixel] * share > 0 ? 1 : 0));
  });
}

/** Return each pixel's distance from the mask's border: positive inside, negative outside; by steps to the neighbours. */
function depths(mask, width) {
  const inside = distances(mask, width, 0);
  const outside = distances(mask, width, 1);
  return Float32Array.from(mask, (is, pixel) => (is ? inside[pixel] - 0.5 : 0.5 - outside[pixel]));
}

/** Return each pixel's distance from the nearest pixel that has this value. */
function distances(mask, width, value) {
  const height = mask.length / width;
  const found = Float32Array.from(mask, (is) => (is === value ? 0 : width + height));
  const steps = [[-1, 0, 1], [0, -1, 1], [-1, -1, Math.SQRT2], [1, -1, Math.SQRT2]];
  const pass = (start, end, by) => {
    for (let pixel = start; pixel !== end; pixel += by) {
      const [x, y] = [pixel % width, Math.floor(pixel / width)];
      for (const [across, down, length] of steps) {
        const [column, row] = [x + across * by, y + down * by];
        if (column < 0 || row < 0 || column >= width || row >= height) continue;
        found[pixel] = Math.min(found[pixel], found[row * width + column] + length);
      }
    }
  };
  pass(0, mask.length, 1);
  pass(mask.length - 1, -1, -1);
  return found;
}

/** Return the outline of a mask's largest piece, as the pixels on its border in order. @returns {Pixel[]} */
export function outline(mask, width) {
  const piece = largest(mask, width);
  const start = piece.indexOf(1);
  if (start < 0) return [];
  const height = mask.length / width;
  const isIn = (x, y) => x >= 0 && y >= 0 && x < width && y < height && piece[y * width + x] === 1;
  let [x, y, heading] = [start % width, Math.floor(start / width), 0];
  const points = [];
  for (let step = 0; step < 4 * mask.length; step += 1) {
    points.push({ x, y });
    const turn = NEIGHBOURS.findIndex((_, n) => {
      const [across, down] = NEIGHBOURS[(heading + 6 + n) % 8]; // from the left of where we come from
      return isIn(x + across, y + down);
    });
    if (turn < 0) break; // a single pixel
    heading = (heading + 6 + turn) % 8;
    [x, y] = [x + NEIGHBOURS[heading][0], y + NEIGHBOURS[heading][1]];
    if (y * width + x === start) break;
  }
  return points;
}

function flood(starts, width, length, visit) {
  const stack = starts.filter(visit);
  while (stack.length) {
    const pixel = stack.pop();
    const column = pixel % width;
    for (const next of [
      column > 0 ? pixel - 1 : -1,
      column < width - 1 ? pixel + 1 : -1,
      pixel - width,
      pixel + width,
    ]) {
      if (next >= 0 && next < length && visit(next)) stack.push(next);
    }
  }
}
