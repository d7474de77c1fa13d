/**
 * Rooms, connections and services, asked for again and again while the page can be seen.
 *
 * @module
 */

import { SwitchboardError } from "../switchboard.js";
import { byId, counted, make, reconcile, setText, timeOfDay } from "./dom.js";
import { write } from "./sending.js";

/** @typedef {import("../switchboard.js").Switchboard} Switchboard */

const POLL_MS = 2000;

/** How many rooms, connections and members are listed; the counts say when there are more. */
const LISTED = 100;

export class Panels {
  #hub;
  #report;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {Set<string>} What the token does not allow: it is not asked for again on this connection. */
  #refused = new Set();
  /** @type {Set<string>} What failed when it was asked for last, and was told of. */
  #failing = new Set();
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
      this.#failing.delete(name);
      excuse(name, "");
    } catch (error) {
      // A break is told by the header, and the next look comes after it.
      if (this.#hub.state !== "open") return;
      const denied = error instanceof SwitchboardError && error.code === "PERMISSION_DENIED";
      excuse(name, denied ? `The token does not allow to see them: it lacks ${error.metadata.permission ?? "a permission"}.` : String(error instanceof Error ? error.message : error));
      byId(`${name}-empty`, HTMLElement).hidden = byId(name, HTMLElement).children.length > 0;
      // That is how tokens are; all else is news, and may pass.
      if (denied) {
        this.#refused.add(name);
      } else if (!this.#failing.has(name)) {
        this.#failing.add(name);
        this.#report(`Listing ${name}`, error);
      }
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
    const details = make("details", {}, make("summary", {}, make("span", { class: "name" }, room.name), make("span", { class: "figures" })), make("ul", { class: "members", "aria-label": "Who is in it" }), make("div", { class: "tools" }, writeButton("rooms", room.name)));
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
      (each) => make("li", { class: "line" }, make("span", { class: "name" }), make("span", { class: "figures" }), writeButton("clients", each.client_id)),
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

/**
 * @param {"rooms" | "clients"} to
 * @param {string} name
 */
function writeButton(to, name) {
  const button = make("button", { type: "button", class: "small", "aria-label": `Write to ${name}` }, to === "rooms" ? "Write to the room" : "Write");
  button.addEventListener("click", () => write("message", to, name));
  return button;
}

/** @param {any} service */
function createService(service) {
  return make("li", {}, make("details", {}, make("summary", {}, make("span", { class: "name" }, service.service_name), make("span", { class: "chips" }), make("span", { class: "figures" })), make("ul", { class: "members instances", "aria-label": "Instances" })));
}

/** How an instance is, in a word, and how good that is. */
const MOODS = /** @type {Record<string, string>} */ ({ SERVING: "good", STARTING: "waiting", DRAINING: "waiting", UNKNOWN: "waiting", NOT_SERVING: "bad", UNHEALTHY: "bad" });

/** @param {string | undefined} status */
function statusName(status) {
  return (status ?? "").replace("INSTANCE_STATUS_", "");
}

/**
 * @param {string | undefined} status
 * @param {string} [count]
 */
function chip(status, count) {
  const name = statusName(status);
  const word = name.replaceAll("_", " ").toLowerCase();
  return make("span", { class: "chip", "data-state": MOODS[name] ?? "idle" }, [count, word].filter(Boolean).join(" "));
}

/**
 * Shows chips, if others than there are.
 *
 * @param {Element} place
 * @param {HTMLElement[]} chips
 */
function setChips(place, chips) {
  if ([...place.children].map((each) => each.textContent).join() !== chips.map((each) => each.textContent).join()) place.replaceChildren(...chips);
}

/**
 * @param {HTMLElement} element
 * @param {any} service
 */
function updateService(element, service) {
  setChips(/** @type {Element} */ (element.querySelector(".chips")), (service.status_counts ?? []).map((/** @type {any} */ each) => chip(each.status, each.count)));
  setText(/** @type {Element} */ (element.querySelector("summary .figures")), (service.versions ?? []).join(" · "));
  reconcile(
    /** @type {HTMLElement} */ (element.querySelector(".members")),
    service.instances ?? [],
    (/** @type {any} */ instance) => instance.instance_id,
    () => make("li", {}, make("span", { class: "name" }), make("span", { class: "chips" }), make("span", { class: "figures" }), make("span", { class: "why" })),
    (line, instance) => {
      const [name, chips, what, why] = line.children;
      const address = `${instance.host}:${instance.port}`;
      setText(name, instance.instance_id);
      setChips(chips, [chip(instance.status)]);
      const { load, weight = 1 } = instance;
      setText(what, [instance.instance_id !== address && address, instance.version, instance.zone, weight > 1 && `weight ${weight}`, load !== undefined && `load ${load}`, instance.unconfirmed && "unconfirmed"].filter(Boolean).join(" · "));
      const reason = statusName(instance.status) === "SERVING" ? "" : (instance.status_reason ?? "");
      setText(why, reason && `${reason}, since ${timeOfDay(instance.status_time)}`);
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
 * Says why nothing is listed, in the place of what there could be learnt; empty: there is just nothing.
 *
 * @param {string} name
 * @param {string} why
 */
function excuse(name, why) {
  setText(byId(`${name}-denied`, HTMLElement), why);
  for (const lesson of byId(`${name}-empty`, HTMLElement).querySelectorAll(`#${name}-none, .command`)) /** @type {HTMLElement} */ (lesson).hidden = why !== "";
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
