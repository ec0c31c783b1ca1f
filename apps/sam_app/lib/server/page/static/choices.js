/** Items of a list in a dialog, of which one is chosen. */

/**
 * Return an item.
 *
 * @param {string} title
 * @param {string[]} facts Beneath it; empty ones are left out.
 * @param {() => void} onChoose
 * @param {HTMLElement[]} pictures Beside it; the title tells what they show.
 * @returns {HTMLLIElement}
 */
export function choice(title, facts, onChoose, pictures = []) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  const name = Object.assign(document.createElement("strong"), { textContent: title });
  const about = Object.assign(document.createElement("span"), { className: "quiet" });
  about.textContent = facts.filter(Boolean).join(" · ");
  const text = document.createElement("span");
  text.append(name, about);
  button.append(...pictures, text);
  button.addEventListener("click", onChoose);
  const item = document.createElement("li");
  item.append(button);
  return item;
}
