/**
 * The live tail of events.
 *
 * @module
 */

import { SwitchboardError } from "../switchboard.js";
import { byId, copyButton, counted, make, setText, timeOfDay } from "./dom.js";

/** @typedef {import("../switchboard.js").Switchboard} Switchboard */
/** @typedef {import("../switchboard.js").Subscription} Subscription */
/** @typedef {import("../switchboard.js").Event} Event */

/** How many events are shown, and how many are kept while the tail is paused. */
const SHOWN = 300;

/** How many events of the past are shown at the start. */
const PAST = 50;

export class Tail {
  #hub;
  #report;
  #list = byId("tail", HTMLOListElement);
  #pause = byId("pause", HTMLButtonElement);
  /** @type {Subscription | null} */
  #subscription = null;
  /** @type {Event[]} Oldest first. */
  #arrived = [];
  #held = 0;
  #total = 0;
  #paused = false;
  #drawing = false;
  #filtered = false;
  #denied = "";
  /** Counts the filters: what was asked for an earlier one is no longer wanted. */
  #turn = 0;

  /**
   * @param {Switchboard} hub
   * @param {(what: string, error: unknown) => void} report
   * @param {AbortSignal} signal Ends it.
   */
  constructor(hub, report, signal) {
    this.#hub = hub;
    this.#report = report;
    byId("filter", HTMLFormElement).addEventListener("submit", (event) => { event.preventDefault(); void this.follow(); }, { signal });
    byId("clear", HTMLButtonElement).addEventListener("click", () => this.#clear(), { signal });
    byId("unfilter", HTMLButtonElement).addEventListener("click", () => this.#narrow({ "filter-types": "", "filter-sources": "" }), { signal });
    this.#pause.addEventListener("click", () => this.#hold(!this.#paused), { signal });
  }

  /**
   * Sets the filter.
   *
   * @param {Record<string, string>} fields By the ids of the fields.
   */
  #narrow(fields) {
    for (const [id, value] of Object.entries(fields)) byId(id, HTMLInputElement).value = value;
    void this.follow();
  }

  /** Shows the last events that match the filter, and all that come. */
  async follow() {
    const filter = { types: entries("filter-types"), source_services: entries("filter-sources") };
    rememberFilter(filter);
    this.#filtered = filter.types.length + filter.source_services.length > 0;
    void this.#subscription?.stop().catch((error) => this.#report("Ending the tail", error));
    this.#clear();
    // Held back, nothing of what is asked for now would be seen.
    this.#hold(false);
    this.#denied = "";
    const turn = ++this.#turn;
    const past = await this.#past(filter, turn);
    if (turn !== this.#turn) return;
    const subscription = this.#hub.subscription({ filter, ...(past && { after_sequence: past }) });
    this.#subscription = subscription;
    subscription.addEventListener("delivery", ({ detail }) => this.#take(detail.event));
    subscription.addEventListener("gap", ({ detail }) => this.#report("Events are missing", `retention removed ${detail.from_sequence} to ${detail.to_sequence}`));
    subscription.addEventListener("ended", ({ detail }) => this.#report("The tail ended", detail.error));
    try {
      await subscription.start();
    } catch (error) {
      const denied = error instanceof SwitchboardError && error.code === "PERMISSION_DENIED";
      // What a token does not allow is told where it would be.
      this.#denied = denied ? `The token does not allow to follow them: it lacks ${error.metadata.permission ?? "a permission"}.` : "";
      if (!denied) this.#report("Following events", error);
      this.#schedule();
    }
  }

  /**
   * Shows what was before.
   *
   * @param {object} filter
   * @param {number} turn
   * @returns {Promise<string | null>} Where to go on from; null: with the next event.
   */
  async #past(filter, turn) {
    try {
      const { events = [] } = await this.#hub.list("events", { filter, page_size: PAST });
      if (turn !== this.#turn) return null;
      for (const event of [...events].reverse()) this.#take(event);
      // Where nothing matches yet, from the beginning: what is published right now must not fall in between.
      return events[0]?.sequence ?? "0";
    } catch {
      // Who may follow need not be allowed to look back.
      return null;
    }
  }

  /** @param {Event} event */
  #take(event) {
    this.#total += 1;
    this.#arrived.push(event);
    if (this.#arrived.length > SHOWN) this.#arrived.shift();
    if (this.#paused) this.#held += 1;
    this.#schedule();
  }

  /** Many events in one frame of the screen are drawn once. */
  #schedule() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  #draw() {
    if (!this.#paused) {
      const rows = this.#arrived.splice(0).map((event) => row(event, (fields) => this.#narrow(fields)));
      this.#list.prepend(...rows.reverse());
      while (this.#list.children.length > SHOWN) this.#list.lastElementChild?.remove();
    }
    byId("tail-empty", HTMLElement).hidden = this.#list.children.length > 0;
    setText(byId("tail-denied", HTMLElement), this.#denied);
    for (const id of ["tail-none", "publish-command", "tail-how"]) byId(id, HTMLElement).hidden = this.#filtered || this.#denied !== "";
    byId("tail-filtered", HTMLElement).hidden = !this.#filtered || this.#denied !== "";
    const held = this.#paused ? ` · ${this.#held} held back` : "";
    setText(byId("tail-note", HTMLElement), `${counted(this.#total, "event")}${held}`);
  }

  /** @param {boolean} paused */
  #hold(paused) {
    this.#paused = paused;
    this.#held = 0;
    this.#pause.setAttribute("aria-pressed", String(this.#paused));
    setText(this.#pause, this.#paused ? "Resume" : "Pause");
    this.#schedule();
  }

  #clear() {
    this.#arrived = [];
    this.#total = this.#held = 0;
    this.#list.replaceChildren();
    this.#schedule();
  }
}

/**
 * @param {string} id
 * @returns {string[]}
 */
function entries(id) {
  return byId(id, HTMLInputElement).value.split(",").map((each) => each.trim()).filter(Boolean);
}

/**
 * Keeps the filter in the page's address, so that it outlives a reload and can be passed on.
 *
 * @param {{ types: string[], source_services: string[] }} filter
 */
function rememberFilter({ types, source_services: sources }) {
  const url = new URL(location.href);
  for (const [name, values] of /** @type {const} */ ([["types", types], ["sources", sources]])) {
    if (values.length) url.searchParams.set(name, values.join(","));
    else url.searchParams.delete(name);
  }
  if (url.href !== location.href) history.replaceState(null, "", url);
}

/** Sets the fields of the filter as the page's address says. */
export function restoreFilter() {
  const { searchParams: given } = new URL(location.href);
  for (const name of ["types", "sources"]) byId(`filter-${name}`, HTMLInputElement).value = (given.get(name) ?? "").replaceAll(",", ", ");
}

/**
 * An event in a line, which opens to show all of it.
 *
 * @param {Event} event
 * @param {(fields: Record<string, string>) => void} narrow
 * @returns {HTMLElement}
 */
function row(event, narrow) {
  const priority = (event.priority ?? "").replace("PRIORITY_", "").toLowerCase();
  const route = event.target_service ? `${event.source_service} → ${event.target_service}` : event.source_service;
  const summary = make(
    "summary",
    {},
    make("time", { datetime: event.publish_time ?? "" }, timeOfDay(event.publish_time)),
    make("span", { class: "number" }, event.sequence ?? ""),
    make("span", { class: "type" }, event.type),
    make("span", { class: "route" }, route),
    make("span", { class: "preview" }, preview(event)),
  );
  if (priority === "high" || priority === "critical") summary.append(make("span", { class: `badge ${priority}` }, priority));
  const details = make("details", {}, summary);
  // Most are never opened, and a payload may be large.
  details.addEventListener("toggle", () => details.append(...opened(event, narrow)), { once: true });
  return make("li", {}, details);
}

/**
 * All of an event, and what can be done with it.
 *
 * @param {Event} event
 * @param {(fields: Record<string, string>) => void} narrow
 * @returns {HTMLElement[]}
 */
function opened(event, narrow) {
  const text = JSON.stringify(event, null, 2);
  const type = make("button", { type: "button", class: "small" }, `Only ${event.type}`);
  type.addEventListener("click", () => narrow({ "filter-types": event.type }));
  const source = make("button", { type: "button", class: "small" }, `Only from ${event.source_service}`);
  source.addEventListener("click", () => narrow({ "filter-sources": event.source_service }));
  return [make("div", { class: "tools" }, copyButton(() => text), type, source), make("pre", { tabindex: "0" }, text)];
}

/**
 * @param {Event} event
 * @returns {string}
 */
function preview(event) {
  const registry = event.source_service === "switchboard" && /** @type {any} */ (event.data);
  if (registry && String(registry.event).startsWith("registry.")) {
    const { service_name: service, instance_id: instance, previous_status: before, status, status_reason: reason } = registry;
    return `${service} ${instance}: ${before ? `${before} → ` : ""}${status}${reason ? ` (${reason})` : ""}`;
  }
  if (event.data) return JSON.stringify(event.data).slice(0, 200);
  return event.text?.slice(0, 200) ?? (event.binary ? `${event.content_type || "binary"}, ${Math.floor(event.binary.length * 0.75)} bytes` : "");
}
