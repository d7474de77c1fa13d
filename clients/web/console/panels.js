/**
 * Rooms, connections and services, asked for again and again while the page can be seen.
 *
 * @module
 */

import { byId, counted, make, reconcile, setText, timeOfDay } from "./dom.js";

/** @typedef {import("../switchboard.js").Switchboard} Switchboard */

const POLL_MS = 2000;

/** How many rooms, connections and members are listed; the counts say when there are more. */
const LISTED = 100;

export class Panels {
  #hub;
  #report;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {Set<string>} What was refused: it is not asked for again on this connection. */
  #refused = new Set();
  #polling = false;
  /** Whether the hub keeps a registry. */
  withServices = false;

  /**
   * @param {Switchboard} hub
   * @param {(what: string, error: unknown) => void} report
   * @param {AbortSignal} signal Ends it.
   */
  constructor(hub, report, signal) {
    this.#hub = hub;
    this.#report = report;
    signal.addEventListener("abort", () => clearTimeout(this.#timer));
    this.#timer = setTimeout(() => this.#poll(signal), 0);
  }

  /** Looks at once, and asks again for what was refused: there may be another token. */
  refresh() {
    this.#refused.clear();
    void this.#show();
  }

  /** @param {AbortSignal} signal */
  async #poll(signal) {
    if (!document.hidden) await this.#show();
    if (!signal.aborted) this.#timer = setTimeout(() => this.#poll(signal), POLL_MS);
  }

  async #show() {
    if (this.#hub.state !== "open" || this.#polling) return;
    this.#polling = true;
    byId("services-panel", HTMLElement).hidden = !this.withServices;
    const parts = [this.#part("rooms", () => this.#rooms()), this.#part("connections", () => this.#connections())];
    if (this.withServices) parts.push(this.#part("services", () => this.#services()));
    await Promise.all(parts);
    this.#polling = false;
  }

  /**
   * @param {string} name
   * @param {() => Promise<void>} show
   */
  async #part(name, show) {
    if (this.#refused.has(name)) return;
    try {
      await show();
    } catch (error) {
      // A break is told by the header, and the next look comes after it.
      if (this.#hub.state !== "open") return;
      this.#refused.add(name);
      setText(byId(`${name}-empty`, HTMLElement), error instanceof Error ? error.message : String(error));
      byId(`${name}-empty`, HTMLElement).hidden = byId(name, HTMLElement).children.length > 0;
      this.#report(`Listing ${name}`, error);
    }
  }

  async #rooms() {
    const { rooms = [], next_page_token: more } = await this.#hub.list("rooms", { page_size: LISTED });
    reconcile(byId("rooms", HTMLElement), rooms, (room) => room.name, (room) => this.#room(room), updateRoom);
    names("send-names", rooms.map((/** @type {any} */ room) => room.name));
    footing("rooms", rooms.length, more, "room");
    for (const open of byId("rooms", HTMLElement).querySelectorAll("details[open]")) await this.#members(/** @type {HTMLElement} */ (open));
  }

  /** @param {any} room */
  #room(room) {
    const details = make("details", {}, make("summary", {}, make("span", { class: "name" }, room.name), make("span", { class: "figures" })), make("ul", { class: "members", "aria-label": "Who is in it" }));
    details.dataset.room = room.name;
    details.addEventListener("toggle", () => void this.#members(details).catch((error) => this.#report("Looking into a room", error)));
    return make("li", {}, details);
  }

  /** @param {HTMLElement} details */
  async #members(details) {
    if (!details.hasAttribute("open")) return;
    const { members = [], next_member_page_token: more } = await this.#hub.list("room", { room: details.dataset.room, member_page_size: LISTED });
    const list = /** @type {HTMLElement} */ (details.querySelector(".members"));
    reconcile(
      list,
      more ? [...members, { client_id: "", more: true }] : members,
      (member) => member.client_id,
      () => make("li", {}, make("span", { class: "name" }), make("span", { class: "figures" })),
      (element, member) => {
        const [name, figures] = element.children;
        setText(name, member.more ? "and more" : member.client_id);
        setText(figures, member.more ? "" : [member.user, member.join_time && `since ${timeOfDay(member.join_time)}`].filter(Boolean).join(" · "));
      },
    );
  }

  async #connections() {
    const { connections = [], total = connections.length, next_page_token: more } = await this.#hub.list("connections", { page_size: LISTED });
    reconcile(
      byId("connections", HTMLElement),
      connections,
      (each) => each.client_id,
      () => make("li", { class: "line" }, make("span", { class: "name" }), make("span", { class: "figures" })),
      (element, each) => {
        const [name, figures] = element.children;
        const own = each.client_id === this.#hub.clientId ? " (this page)" : "";
        setText(name, `${each.client_id}${own}`);
        const transport = each.transport === "TRANSPORT_GRPC" ? "gRPC" : "WebSocket";
        const dropped = Number(each.dropped_messages ?? 0);
        setText(figures, [each.user, transport, each.rooms?.length && counted(each.rooms.length, "room"), dropped && `${counted(dropped, "message")} dropped`, `since ${timeOfDay(each.connect_time)}`].filter(Boolean).join(" · "));
      },
    );
    footing("connections", total, more && connections.length < total, "connection");
  }

  async #services() {
    const { services = [], next_page_token: more, self_preservation: withheld } = await this.#hub.list("services", { include_instances: true, page_size: LISTED });
    reconcile(byId("services", HTMLElement), services, (service) => service.service_name, createService, updateService);
    footing("services", services.length, more, "service");
    if (withheld?.active) setText(byId("services-note", HTMLElement), `eviction withheld: ${counted(withheld.withheld ?? 0, "instance")}`);
  }
}

/**
 * @param {HTMLElement} element
 * @param {any} room
 */
function updateRoom(element, room) {
  const figures = /** @type {Element} */ (element.querySelector(".figures"));
  const { connections = 0, users = 0, history_length: kept = 0, history_size: size = 0 } = room;
  setText(figures, [counted(connections, "connection"), users && counted(users, "user"), size && `${kept} of ${size} kept`].filter(Boolean).join(" · "));
}

/** @param {any} service */
function createService(service) {
  return make("li", {}, make("details", {}, make("summary", {}, make("span", { class: "name" }, service.service_name), make("span", { class: "figures" })), make("ul", { class: "members", "aria-label": "Instances" })));
}

/** @param {string | undefined} status */
function statusWord(status) {
  return (status ?? "").replace("INSTANCE_STATUS_", "").replace("_", " ").toLowerCase();
}

/**
 * @param {HTMLElement} element
 * @param {any} service
 */
function updateService(element, service) {
  const figures = /** @type {Element} */ (element.querySelector("summary .figures"));
  const counts = (service.status_counts ?? []).map((/** @type {any} */ each) => `${each.count} ${statusWord(each.status)}`);
  setText(figures, [...counts, ...(service.versions ?? [])].join(" · "));
  reconcile(
    /** @type {HTMLElement} */ (element.querySelector(".members")),
    service.instances ?? [],
    (/** @type {any} */ instance) => instance.instance_id,
    () => make("li", {}, make("span", { class: "name" }), make("span", { class: "figures" })),
    (line, instance) => {
      const [name, what] = line.children;
      setText(name, instance.instance_id);
      line.title = instance.status_reason ?? "";
      setText(what, [statusWord(instance.status), instance.version, instance.zone, instance.unconfirmed && "unconfirmed"].filter(Boolean).join(" · "));
    },
  );
}

/**
 * @param {string} name
 * @param {number} count
 * @param {unknown} more Whether there are more than are listed.
 * @param {string} word
 */
function footing(name, count, more, word) {
  byId(`${name}-empty`, HTMLElement).hidden = count > 0;
  setText(byId(`${name}-note`, HTMLElement), count ? `${counted(count, word)}${more ? ", and more" : ""}` : "");
}

/**
 * @param {string} id
 * @param {string[]} values
 */
function names(id, values) {
  const list = byId(id, HTMLDataListElement);
  if ([...list.options].map((option) => option.value).join("\n") === values.join("\n")) return;
  list.replaceChildren(...values.map((value) => make("option", { value })));
}
