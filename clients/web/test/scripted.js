/** A WebSocket server that does what the test says, for what a real hub cannot be made to do: silence, refusals, timing. */

import { once } from "node:events";
import { WebSocketServer } from "ws";

export class ScriptedHub {
  /** @type {ScriptedConnection[]} */
  connections = [];
  #arrivals = [];
  #waiters = [];

  /** @param {{ heartbeat_seconds?: number, max_frame_bytes?: number, max_frames_per_second?: number }} started */
  constructor(started = {}) {
    this.started = { heartbeat_seconds: 30, max_frame_bytes: 65536, max_frames_per_second: 100, ...started };
  }

  async listen() {
    this.server = new WebSocketServer({ host: "127.0.0.1", port: 0, handleProtocols: (offered) => [...offered][0] });
    this.server.on("connection", (socket, request) => {
      const connection = new ScriptedConnection(socket, request, this.started);
      this.connections.push(connection);
      const waiter = this.#waiters.shift();
      if (waiter) waiter(connection);
      else this.#arrivals.push(connection);
    });
    await once(this.server, "listening");
    this.url = `ws://127.0.0.1:${this.server.address().port}`;
    return this;
  }

  /** The next connection that nobody has taken yet. */
  async connection() {
    return this.#arrivals.shift() ?? new Promise((resolve) => this.#waiters.push(resolve));
  }

  /** The next connection, once it was told that it stands. */
  async open() {
    const connection = await this.connection();
    connection.start();
    return connection;
  }

  async close() {
    for (const client of this.server.clients) client.terminate();
    this.server.close();
    await once(this.server, "close");
  }
}

class ScriptedConnection {
  #frames = [];
  #waiters = [];

  constructor(socket, request, started) {
    this.socket = socket;
    this.path = request.url;
    this.protocol = socket.protocol;
    this.offered = (request.headers["sec-websocket-protocol"] ?? "").split(/, ?/);
    this.started = started;
    this.closed = once(socket, "close");
    socket.on("message", (data) => {
      const frame = JSON.parse(String(data));
      const waiter = this.#waiters.shift();
      if (waiter) waiter(frame);
      else this.#frames.push(frame);
    });
  }

  start() {
    this.send({ type: "system", data: { event: "started", client_id: "named", user: "", node: "n", ...this.started } });
  }

  send(frame) {
    this.socket.send(JSON.stringify(frame));
  }

  /** The next frame from the client. */
  async frame() {
    return this.#frames.shift() ?? new Promise((resolve) => this.#waiters.push(resolve));
  }

  /** How many frames came that nobody has taken. */
  get pending() {
    return this.#frames.length;
  }

  ack(frame, data = {}) {
    this.send({ type: "ack", id: frame.id, data });
  }

  refuse(frame, code, reason) {
    this.send({ type: "error", id: frame.id, code, reason, message: `${reason} in words` });
  }
}

/** The detail of the next event of a type. */
export async function next(target, type) {
  const [event] = await once(target, type);
  return event.detail;
}

/** Gathers the details of all events of a type; `until` waits for a number of them. */
export class Gathered extends Array {
  #waiters = new Set();

  static of(target, type) {
    const gathered = new Gathered();
    target.addEventListener(type, ({ detail }) => {
      gathered.push(detail);
      for (const look of gathered.#waiters) look();
    });
    return gathered;
  }

  static get [Symbol.species]() {
    return Array;
  }

  until(count) {
    return new Promise((resolve) => {
      const look = () => {
        if (this.length < count) return;
        this.#waiters.delete(look);
        resolve(this);
      };
      this.#waiters.add(look);
      look();
    });
  }
}
