/** Dialog that asks for an API key. */

const byId = (id) => document.getElementById(id);

let asked = null;

/**
 * Ask the user for an API key. Parallel requests that need the key share one dialog.
 *
 * @param {string} reason Additional text for the dialog; may be empty.
 * @returns {Promise<string | null>} The key; null if none was entered.
 */
export function askForKey(reason) {
  asked ??= ask(reason).finally(() => { asked = null; });
  return asked;
}

function ask(reason) {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-reason").textContent = reason;
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const finish = (key) => {
      field.value = "";
      listening.abort();
      dialog.close();
      resolve(key);
    };
    const listening = new AbortController();
    const { signal } = listening;
    const onSubmit = (event) => {
      event.preventDefault();
      finish(field.value.trim());
    };
    byId("key-form").addEventListener("submit", onSubmit, { signal });
    byId("key-cancel").addEventListener("click", () => finish(null), { signal });
    dialog.addEventListener("cancel", () => finish(null), { signal });
  });
}
