/**
 * Keyboard shortcuts.
 *
 * @module
 */

import { byId } from "./dom.js";
import { write } from "./sending.js";

/**
 * Goes to the next or the previous event.
 *
 * @param {1 | -1} step
 */
function move(step) {
  const rows = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("#tail > li > details > summary")]);
  const here = rows.findIndex((row) => row.closest("details")?.contains(document.activeElement));
  rows[here < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, here + step))]?.focus();
}

/** @type {Record<string, () => void>} */
const KEYS = {
  "/": () => byId("filter-types", HTMLInputElement).select(),
  p: () => byId("pause", HTMLButtonElement).click(),
  j: () => move(1),
  k: () => move(-1),
  m: () => write("message"),
  e: () => write("event"),
  "?": showKeys,
};

function showKeys() {
  byId("keys-dialog", HTMLDialogElement).showModal();
}

/** Listens to keys, but for those that are typed into a field or meant for a dialog. */
export function start() {
  byId("keys-button", HTMLButtonElement).addEventListener("click", showKeys);
  document.addEventListener("keydown", (event) => {
    const { target } = event;
    const typing = target instanceof HTMLElement && target.closest("input, textarea, select, dialog[open]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
