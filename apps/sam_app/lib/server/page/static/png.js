/** 8-bit grey PNG files (W3C PNG, third edition), as masks are sent: a canvas would make coloured ones. */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, number) => {
  let crc = number;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

/**
 * Return a grey picture as PNG.
 *
 * @param {Uint8Array} pixels Row by row.
 * @param {number} width
 * @returns {Promise<Blob>}
 */
export async function greyPng(pixels, width) {
  const height = pixels.length / width;
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // bits a pixel; then colour type 0 (grey), and the only compression, filters and order
  const rows = new Uint8Array((width + 1) * height); // each row begins with its filter: none
  for (let y = 0; y < height; y += 1) rows.set(pixels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = await compressed(rows, "deflate");
  const chunks = [chunk("IHDR", new Uint8Array(header.buffer)), chunk("IDAT", packed), chunk("IEND", new Uint8Array())];
  return new Blob([Uint8Array.from(SIGNATURE), ...chunks], { type: "image/png" });
}

/** Compress bytes. @param {Uint8Array} bytes @param {"deflate" | "gzip"} format @returns {Promise<Uint8Array>} */
export function compressed(bytes, format) {
  return through(new CompressionStream(format), bytes);
}

/** Return bytes as they come out of a stream. @returns {Promise<Uint8Array>} */
export async function through(stream, bytes) {
  const answer = new Response(new Blob([bytes]).stream().pipeThrough(stream));
  return new Uint8Array(await answer.arrayBuffer());
}

function chunk(type, content) {
  const bytes = new Uint8Array(content.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  for (let n = 0; n < 4; n += 1) bytes[4 + n] = type.charCodeAt(n);
  bytes.set(content, 8);
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(4, content.length + 8)) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  view.setUint32(content.length + 8, ~crc >>> 0);
  return bytes;
}
