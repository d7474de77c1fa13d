/**
 * The form that sends a message to connections, or publishes an event.
 *
 * @module
 */

import { byId, counted, setText } from "./dom.js";

/** @typedef {import("../switchboard.js").Switchboard} Switchboard */
/** @typedef {"message" | "event"} Kind */

/** What each is, and what its data may look like. */
const KINDS = {
  message: {
    about: "Reaches who is connected now, and is gone.",
    data: '{"title": "Maintenance", "content": "Back in 30 minutes"}',
  },
  event: { about: "Is stored, and reaches every subscriber that wants it.", data: '{"order": 1}' },
};

const form = byId("send", HTMLFormElement);
const target = byId("send-to", HTMLSelectElement);
const name = byId("send-name", HTMLInputElement);
const data = byId("send-data", HTMLTextAreaElement);
/** @type {Kind} */
let kind = "message";

/** @param {Kind} next */
function choose(next) {
  // What somebody has written stays.
  if (data.value.trim() === KINDS[kind].data || !data.value.trim()) data.value = KINDS[next].data;
  kind = next;
  for (const radio of byId("send-what", HTMLFieldSetElement).querySelectorAll("input")) radio.checked = radio.value === next;
  for (const row of /** @type {NodeListOf<HTMLElement>} */ (form.querySelectorAll("[data-for]"))) {
    row.hidden = row.dataset.for !== next;
    // What is not shown must not keep the form from being sent.
    for (const field of /** @type {NodeListOf<HTMLInputElement | HTMLSelectElement>} */ (row.querySelectorAll("input, select"))) field.disabled = row.hidden;
  }
  setText(byId("send-about", HTMLElement), KINDS[next].about);
  setText(byId("send-note", HTMLElement), "");
}

/** Shows the field for a name where one is wanted. */
function showName() {
  byId("send-name-label", HTMLElement).hidden = target.value === "all";
  name.required = target.value !== "all";
  // The names that are suggested are those of rooms.
  name.setAttribute("list", target.value === "rooms" ? "send-names" : "");
}

/**
 * Goes to the form.
 *
 * @param {Kind} what
 * @param {"rooms" | "clients"} [to] A message's receivers.
 * @param {string} [receiver] Their name.
 */
export function write(what, to, receiver) {
  choose(what);
  if (to && receiver) {
    target.value = to;
    name.value = receiver;
    showName();
  }
  form.scrollIntoView({ block: "nearest" });
  data.focus();
  data.select();
}

/** @returns {Record<string, any>} */
function written() {
  let value;
  try {
    value = JSON.parse(data.value);
  } catch (error) {
    throw new TypeError(`the data are not JSON: ${error instanceof Error ? error.message : error}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new TypeError("the data have to be a JSON object");
  return value;
}

/**
 * @param {Switchboard} hub
 * @returns {Promise<string>} What became of it.
 */
async function send(hub) {
  const content = written();
  if (kind === "message") {
    const to = target.value === "all" ? { all: true } : { [target.value]: [name.value.trim()] };
    const sent = await hub.send(byId("send-type", HTMLInputElement).value.trim(), content, { to });
    return `Handed to ${counted(sent.connections ?? 0, "connection")}.`;
  }
  const stored = await hub.publish({
    id: crypto.randomUUID?.() ?? `console-${Date.now()}-${Math.random().toString(36).slice(2)}`,
    type: byId("event-type", HTMLInputElement).value.trim(),
    source_service: byId("event-source", HTMLInputElement).value.trim(),
    target_service: byId("event-target", HTMLInputElement).value.trim(),
    priority: byId("event-priority", HTMLSelectElement).value,
    data: content,
  });
  return `Stored as ${stored.sequence}.`;
}

/**
 * Makes the form work.
 *
 * @param {() => Switchboard | undefined} connection
 * @param {(what: string, error: unknown) => void} report
 */
export function start(connection, report) {
  choose("message");
  target.addEventListener("change", showName);
  byId("send-what", HTMLFieldSetElement).addEventListener("change", (event) => choose(/** @type {Kind} */ (/** @type {HTMLInputElement} */ (event.target).value)));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const note = byId("send-note", HTMLElement);
    try {
      const hub = connection();
      if (!hub) throw new Error("there is no connection");
      setText(note, await send(hub));
    } catch (error) {
      setText(note, "");
      report(kind === "message" ? "Not sent" : "Not published", error);
    }
  });
}
