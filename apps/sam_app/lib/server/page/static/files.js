/** Files that were dropped: one image, the files of a series, or folders with them. */

const MOST = 5000;

/**
 * Return the files that were dropped, with those in dropped folders.
 *
 * @param {DataTransfer} transfer
 * @returns {Promise<File[]>}
 */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  for (const entry of entries) await collect(entry, files);
  if (!files.length) throw new Error("The folder has no files.");
  return files;
}

async function collect(entry, files) {
  if (files.length > MOST) throw new Error(`The folder has more than ${MOST} files: choose one with a single series.`);
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    if (!file.name.startsWith(".")) files.push(new File([file], entry.fullPath.slice(1), { type: file.type }));
    return;
  }
  const reader = entry.createReader();
  for (;;) { // a reader gives its entries in parts
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return;
    for (const one of part) await collect(one, files);
  }
}
