/**
 * What the console's parts share to show things. Text from the network only ever becomes `textContent`.
 *
 * @module
 */

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} Class
 * @returns {T}
 */
export function byId(id, Class) {
  const found = document.getElementById(id);
  if (!(found instanceof Class)) throw new TypeError(`#${id} is no ${Class.name}`);
  return found;
}

/**
 * Makes an element.
 *
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {(Node | string)[]} children Strings become text.
 * @returns {HTMLElement}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * Sets an element's text if it differs, so that nothing that is selected or read out is disturbed.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Brings a list's children in line with items and keeps those elements that stay, with what is open or focused in them.
 *
 * @template T
 * @param {HTMLElement} list
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => HTMLElement} create
 * @param {(element: HTMLElement, item: T) => void} update
 */
export function reconcile(list, items, keyOf, create, update) {
  const old = new Map([...list.children].map((child) => [/** @type {HTMLElement} */ (child).dataset.key, /** @type {HTMLElement} */ (child)]));
  let place = list.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let element = old.get(key);
    old.delete(key);
    if (!element) {
      element = create(item);
      element.dataset.key = key;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else list.insertBefore(element, place);
  }
  for (const element of old.values()) element.remove();
}

/**
 * A button that copies a text.
 *
 * @param {() => string} text
 * @returns {HTMLElement}
 */
export function copyButton(text) {
  const button = make("button", { type: "button", class: "small" }, "Copy");
  button.addEventListener("click", async () => {
    // Pages have a clipboard where the connection is secure only; elsewhere the text is there to be marked.
    const done = await navigator.clipboard?.writeText(text()).then(() => true, () => false);
    setText(button, done ? "Copied" : "Not allowed");
    setTimeout(() => setText(button, "Copy"), 1500);
  });
  return button;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

/**
 * @param {string | undefined} time As RFC 3339.
 * @returns {string} The time of day.
 */
export function timeOfDay(time) {
  return time ? clock.format(new Date(time)) : "";
}

/**
 * @param {number} count
 * @param {string} one
 * @param {string} [many]
 * @returns {string}
 */
export function counted(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/**
 * @param {number} seconds
 * @returns {string} Its two largest units.
 */
export function duration(seconds) {
  const parts = [];
  for (const [unit, size] of /** @type {const} */ ([["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]])) {
    const count = Math.floor(seconds / size);
    seconds -= count * size;
    if (count || (unit === "s" && !parts.length)) parts.push(`${count} ${unit}`);
  }
  return parts.slice(0, 2).join(" ");
}

/**
 * @param {number} value
 * @returns {string} With three digits and a unit: 12.3 k.
 */
export function compact(value) {
  const units = ["", " k", " M", " G", " T"];
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = Number.isInteger(value) && !unit ? 0 : value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)}${units[unit]}`;
}
