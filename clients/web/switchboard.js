/**
 * Client of a Switchboard hub for browsers and Node: messages, rooms and events over one WebSocket, which
 * comes back by itself and brings what was missed.
 *
 * One idiom throughout: objects are made first, get their listeners (`addEventListener`, each event carries
 * its content in `detail`), and are started then, so that nothing can come before its listener. What is
 * asked of the hub returns a promise, which fails with a `SwitchboardError`.
 *
 * What the hub sends is handed on as it came, with the names of `PROTOCOL.md` and the protos.
 *
 * @module
 */

// --- types ----------------------------------------------------------------------------------------

/**
 * A place in the history of a room.
 *
 * @typedef {{ room?: string, epoch: string, offset: number }} RoomPosition
 */

/**
 * A message. `rooms` names the rooms that it came through and this connection stands in.
 *
 * @typedef {object} Message
 * @property {string} type What it is, such as "chat".
 * @property {Record<string, any>} data The content.
 * @property {string} message_id Names it.
 * @property {{ room: string, epoch?: string, offset?: number }[]} [rooms] With the place in the history of those that keep one.
 * @property {string} [sender_client_id] Connection in whose name it was sent.
 * @property {string} [sender_user] User who sent it.
 * @property {string} [send_time] When the hub took it.
 */

/**
 * An event, as `switchboard.v1.Event` in JSON: 64-bit numbers are strings.
 *
 * @typedef {object} Event
 * @property {string} type What happened, such as "order.created".
 * @property {string} source_service The service that it comes from.
 * @property {string} [id] Names it within its source. With one, publishing is safe to repeat.
 * @property {string} [target_service]
 * @property {Record<string, any>} [data] The content, if it is a JSON object.
 * @property {string} [text] The content, if it is text.
 * @property {string} [binary] The content in base64, if it is bytes.
 * @property {string} [content_type]
 * @property {Record<string, string>} [attributes]
 * @property {string} [priority] Such as "PRIORITY_HIGH".
 * @property {string} [ordering_key]
 * @property {string} [correlation_id]
 * @property {string} [deliver_at]
 * @property {string} [ttl] Such as "30s".
 * @property {string} [sequence] Its place in the log; set by the hub, like what follows.
 * @property {string} [publish_time]
 * @property {string} [publisher]
 */

/**
 * An event on its way to a subscription. `ack_id` and `attempt` are there in a group only.
 *
 * @typedef {{ event: Event, ack_id?: string, attempt?: number }} Delivery
 */

/**
 * Answer to a publish.
 *
 * @typedef {{ id?: string, sequence?: string, publish_time?: string, duplicate?: boolean, deliver_at?: string }} Published
 */

/**
 * Answer to a message.
 *
 * @typedef {{ message_id: string, connections?: number, positions?: RoomPosition[] }} Sent
 */

/**
 * To whom a message goes: the union, less the excluded.
 *
 * @typedef {{ all?: boolean, rooms?: string[], users?: string[], clients?: string[], exclude_clients?: string[] }} Recipients
 */

/**
 * The connection stands in a room.
 *
 * @typedef {object} RoomJoined
 * @property {string} room
 * @property {RoomPosition} [position] Place of the latest message; without an epoch where the room keeps no history.
 * @property {boolean} [recovered] All that was missed is replayed, and none is missing.
 * @property {number} [replayed] How many messages are replayed.
 * @property {number} [connections] Connections that stand in the room, this one included.
 * @property {number} [users]
 * @property {boolean} [already_joined]
 */

/**
 * A room was joined. `resumed`: it was joined again after a break. `gap`: after that break, or after the place that
 * `recoverAfter` named, messages may be missing, for the room keeps no history or it no longer reaches back so far.
 *
 * @typedef {RoomJoined & { resumed: boolean, gap: boolean }} Joined
 */

/**
 * The room was left. `removed`: another client took this one out. `error`: coming back after a break was refused.
 *
 * @typedef {{ room: string, removed?: boolean, error?: SwitchboardError }} Left
 */

/**
 * Others joined or left a room.
 *
 * @typedef {object} PresenceNotice
 * @property {string} room
 * @property {{ client_id: string, user?: string, join_time?: string }[]} [joined]
 * @property {{ client_id: string, user?: string, join_time?: string }[]} [left]
 * @property {number} [connections] Connections that stand in the room now.
 * @property {number} [users]
 */

/**
 * Who is online, a page.
 *
 * @typedef {object} Presence
 * @property {{ user: string, online?: boolean, connections?: number }[]} [presences]
 * @property {string} [next_page_token]
 */

/**
 * Why a connection ended.
 *
 * @typedef {object} CloseReason
 * @property {number} code Code of the WebSocket's close frame; 1006 where there was none, and the hub had not said why it ends.
 * @property {CloseName} reason Its name, for programs.
 * @property {string} message What was said beside it, for people: the text of the hub's error, where the connection ended with one; may be empty.
 * @property {boolean} reconnect Whether to come back is allowed.
 */

/**
 * Names of `CloseReason.code`. The last six are said by this side.
 *
 * @typedef {"SHUTTING_DOWN" | "SLOW_CONSUMER" | "TOKEN_EXPIRED" | "CONNECTION_CLOSED" | "PING_TIMEOUT" | "INTERNAL" | "LIMIT_REACHED" | "ROOM_INTERRUPTED" | "REALTIME_UNAVAILABLE"
 *   | "CONNECTION_REPLACED" | "TOKEN_INVALID" | "PERMISSION_DENIED" | "MALFORMED_FRAME" | "RATE_LIMITED"
 *   | "NORMAL" | "GOING_AWAY" | "INVALID_UTF8" | "FRAME_TOO_LARGE" | "OTHER"
 *   | "CONNECTION_LOST" | "DEAD_LINK" | "OPEN_TIMEOUT" | "TOKEN_UNAVAILABLE" | "NOT_POSSIBLE" | "CLOSED"} CloseName
 */

/**
 * Says why a token is asked for: for a new connection, or because the one in use is about to expire.
 *
 * @typedef {{ reason: "connect" | "expiring" }} TokenRequest
 */

/** @typedef {string | ((request: TokenRequest) => string | Promise<string>)} TokenSource */

/**
 * The part of the WebSocket API that is used; the `ws` package has it too.
 *
 * @typedef {{ send(text: string): void, close(code?: number, reason?: string): void,
 *   addEventListener(type: string, listener: (event: any) => void): void }} Socket
 */

/**
 * @typedef {object} Options
 * @property {string} [clientId] Name of the connection, neither "." nor ".."; default: the hub makes one, which is kept from then on.
 * @property {string} [user] Whose connection it is, on a hub that asks for no token.
 * @property {TokenSource} [token] Token, or a function that gets one. The function is called for each connection, and a minute before the token in use
 *   expires, or halfway where less than two are left; its result is sent on the live connection then.
 * @property {"wait" | "reject"} [offline] What calls do while there is no connection: wait for one, as long as `timeoutMs` (default), or
 *   fail at once with NOT_CONNECTED.
 * @property {number} [maxWaiting] How many calls may wait, for a connection or, where they come faster than the hub takes them, for their
 *   turn, 1000; beyond it they fail with QUEUE_FULL.
 * @property {number} [timeoutMs] Milliseconds until a call fails with TIMEOUT, 10 000.
 * @property {number} [openTimeoutMs] Milliseconds until an attempt to connect is given up and the next one made, 10 000.
 * @property {number} [minBackoffMs] Longest wait before the first attempt to come back, in milliseconds, 500. It doubles with each
 *   attempt; each wait is taken at random from 0 to there (full jitter).
 * @property {number} [maxBackoffMs] Longest wait of all, 20 000.
 * @property {number} [stableMs] Milliseconds after which a connection counts as stable and the back-off starts anew, 10 000.
 * @property {new (url: string, protocols?: string[]) => Socket} [WebSocket] Class to connect with; default: the global one. Node before 22 has none: take that
 *   of the package `ws`.
 */

/**
 * @typedef {object} CallOptions
 * @property {number} [timeoutMs] As in Options, for this call.
 * @property {AbortSignal} [signal] Gives the call up: its promise fails with the signal's reason. The hub may have done it all the same.
 */

/**
 * @typedef {object} HubEvents
 * @property {{ attempt: number }} connecting An attempt to connect begins; 0: the first one since the last stable connection.
 * @property {{ client_id: string, user?: string, node?: string, resumed: boolean }} open The connection stands.
 * @property {CloseReason & { willReconnect: boolean, delayMs: number }} close A connection ended or an attempt failed; the next one comes after `delayMs`.
 * @property {Message} message A message, each once.
 * @property {{ count: number }} dropped Messages are missing because the page read too slowly.
 * @property {SwitchboardError} error What no call was answered with and no connection ends with: the hub's word about a frame without id, a token
 *   that could not be had for the live connection. What ends a connection, or an attempt, is told by `close` alone.
 * @property {{ seconds: number }} tokenexpiring The token in use expires. Listen where `token` is no function, and call `refresh`.
 */

/**
 * @typedef {object} RoomEvents
 * @property {Joined} joined The connection stands in the room, by its own wish or another's, or again after a break.
 * @property {Left} left It stands there no longer.
 * @property {Message} message A message of the room, each once.
 * @property {PresenceNotice} presence Others joined or left; only where asked for.
 */

/**
 * @typedef {object} SubscriptionEvents
 * @property {{ position: string, member_id?: string, resumed: boolean }} started The subscription stands, or stands again after a break.
 * @property {Delivery} delivery An event.
 * @property {{ position: string }} caughtup All that was in the log at the start has been delivered.
 * @property {{ from_sequence: string, to_sequence: string }} gap Retention removed events before they were delivered.
 * @property {{ error: SwitchboardError }} ended The hub ended it, and it does not start again by itself.
 */

/**
 * As browsers have them. Node's types do not know the DOM's name for it.
 *
 * @typedef {{ capture?: boolean, once?: boolean, passive?: boolean, signal?: AbortSignal }} ListenerOptions
 */

/**
 * @template M
 * @typedef {Omit<EventTarget, "addEventListener" | "removeEventListener"> & {
 *   addEventListener<K extends keyof M & string>(type: K, listener: (event: CustomEvent<M[K]>) => void, options?: boolean | ListenerOptions): void,
 *   removeEventListener<K extends keyof M & string>(type: K, listener: (event: CustomEvent<M[K]>) => void, options?: boolean | ListenerOptions): void,
 * }} Target
 */

// --- errors and close codes -----------------------------------------------------------------------

/**
 * Why a call failed. Match on `reason`, or on `code` where the kind is enough; the text is for people.
 *
 * The hub's errors have the name of the gRPC status as `code`, and that of the `ErrorReason` as `reason`. This side says
 * UNAVAILABLE with NOT_CONNECTED, CONNECTION_LOST (sent, and no answer came: it may have been done or not) or
 * CLOSED, RESOURCE_EXHAUSTED with QUEUE_FULL, DEADLINE_EXCEEDED with TIMEOUT (the same doubt, unless `sent` is false), and
 * INVALID_ARGUMENT with TOO_LARGE or INVALID_FIELD.
 */
export class SwitchboardError extends Error {
  /**
   * @param {object} fields
   * @param {string} fields.code
   * @param {string} fields.reason
   * @param {string} [fields.message]
   * @param {{ field: string, description: string }[]} [fields.violations]
   * @param {Record<string, string>} [fields.metadata]
   * @param {CloseReason} [fields.close]
   * @param {boolean} [fields.sent]
   * @param {unknown} [fields.cause]
   */
  constructor({ code, reason, message, violations, metadata, close, sent, cause }) {
    super(message || reason, cause === undefined ? undefined : { cause });
    this.name = "SwitchboardError";
    /** Name of the gRPC status, such as "INVALID_ARGUMENT". */
    this.code = code;
    /** Name of the reason, such as "FIELD_MISSING". */
    this.reason = reason;
    /** The fields that were wrong, where the input was bad. */
    this.violations = violations ?? [];
    /** What the reason's comment in errors.proto names. */
    this.metadata = metadata ?? {};
    /** Why the connection ended, where that was the cause. */
    this.close = close ?? null;
    /** Whether the hub may have been asked; false: the call never left this side, so nothing was done. */
    this.sent = sent ?? true;
  }
}

/** @type {Readonly<Record<number, CloseName>>} */
const CLOSE_NAMES = Object.freeze({
  1000: "NORMAL",
  1001: "GOING_AWAY",
  1006: "CONNECTION_LOST",
  1007: "INVALID_UTF8",
  1009: "FRAME_TOO_LARGE",
  4000: "SHUTTING_DOWN",
  4001: "SLOW_CONSUMER",
  4002: "TOKEN_EXPIRED",
  4003: "CONNECTION_CLOSED",
  4004: "PING_TIMEOUT",
  4005: "INTERNAL",
  4006: "LIMIT_REACHED",
  4007: "ROOM_INTERRUPTED",
  4008: "REALTIME_UNAVAILABLE",
  4500: "CONNECTION_REPLACED",
  4501: "CONNECTION_CLOSED",
  4502: "TOKEN_INVALID",
  4503: "PERMISSION_DENIED",
  4504: "MALFORMED_FRAME",
  4505: "RATE_LIMITED",
});

/**
 * @param {number} code
 * @param {string} message
 * @returns {CloseReason}
 */
function closeReason(code, message) {
  const final = code >= 4500 && code <= 4999;
  const reason = CLOSE_NAMES[code] ?? "OTHER";
  // The hub says the name again where it has no more to say.
  return { code, reason, message: message === reason ? "" : message, reconnect: !final };
}

/**
 * An end that this side saw, without a close frame.
 *
 * @param {CloseName} reason
 * @param {string} message
 * @param {boolean} [reconnect]
 * @returns {CloseReason}
 */
function localClose(reason, message, reconnect = true) {
  return { code: 1006, reason, message, reconnect };
}

/**
 * Codes of errors for ends that are the hub's answer to who the client is.
 *
 * @type {Readonly<Partial<Record<CloseName, string>>>}
 */
const REFUSALS = Object.freeze({ PERMISSION_DENIED: "PERMISSION_DENIED", TOKEN_INVALID: "UNAUTHENTICATED" });

/** Codes of errors that may pass by themselves. */
const PASSING = new Set(["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL", "ABORTED", "DEADLINE_EXCEEDED"]);

// --- one connection -------------------------------------------------------------------------------

/**
 * One WebSocket from its opening to its end, and the watch over its silence. It reports its end once; whatever the
 * socket does afterwards is nobody's concern any more.
 */
class Link {
  #socket;
  #onEnd;
  #ended = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #silenceMs = 0;
  #heardAt = 0;

  /**
   * @param {Socket} socket
   * @param {number} openTimeoutMs
   * @param {(text: string) => void} onText
   * @param {(close: CloseReason) => void} onEnd
   */
  constructor(socket, openTimeoutMs, onText, onEnd) {
    this.#socket = socket;
    this.#onEnd = onEnd;
    this.#timer = setTimeout(() => this.end(localClose("OPEN_TIMEOUT", "the hub did not answer in time")), openTimeoutMs);
    socket.addEventListener("message", ({ data }) => {
      if (this.#ended) return;
      this.#heardAt = performance.now();
      onText(data);
    });
    socket.addEventListener("close", ({ code, reason }) => this.#finish(closeReason(code, String(reason ?? ""))));
    // A `close` follows, but not after an attempt that failed in earlier Nodes: https://github.com/nodejs/undici/issues/3546
    socket.addEventListener("error", () => {
      if (!this.#silenceMs) setTimeout(() => this.#finish(localClose("CONNECTION_LOST", "the hub cannot be reached")));
    });
  }

  /**
   * Ends the opening, and from now on the link too when nothing is heard for so long.
   *
   * @param {number} silenceMs
   */
  watch(silenceMs) {
    clearTimeout(this.#timer);
    this.#silenceMs = silenceMs;
    this.#heardAt = performance.now();
    this.#timer = setTimeout(() => this.#check(), silenceMs);
  }

  #check() {
    const left = this.#heardAt + this.#silenceMs - performance.now();
    if (left > 0) this.#timer = setTimeout(() => this.#check(), left);
    else this.end(localClose("DEAD_LINK", "nothing was heard from the hub"));
  }

  /** @param {string} text */
  send(text) {
    this.#socket.send(text);
  }

  /**
   * Closes the socket and reports the end at once: a dead link would answer the close frame late or never.
   *
   * @param {CloseReason} close
   */
  end(close) {
    if (this.#ended) return;
    this.#finish(close);
    this.#socket.close(1000);
  }

  /** @param {CloseReason} close */
  #finish(close) {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#onEnd(close);
  }
}

/** Remembers the last names that it was given. */
class Recent {
  /** @type {Set<string>} */
  #names = new Set();
  #limit;

  /** @param {number} limit */
  constructor(limit) {
    this.#limit = limit;
  }

  /**
   * @param {string} name
   * @returns {boolean} Whether it is new.
   */
  add(name) {
    if (this.#names.has(name)) return false;
    this.#names.add(name);
    if (this.#names.size > this.#limit) this.#names.delete(/** @type {string} */ (this.#names.values().next().value));
    return true;
  }
}

/** How much of the hub's rate of frames is used: frames that were sent evenly do not arrive so. */
const PACE = 0.9;

/** Says how many frames may go out now: about as many at once as the hub takes in a second, and then at that rate. */
class Pace {
  #level;
  #rate;
  #filledAt = performance.now();

  /** @param {number} rate Frames a second that the hub takes. */
  constructor(rate) {
    this.#rate = this.#level = Math.max(1, rate * PACE);
  }

  /** @returns {boolean} Whether one more may go now. */
  take() {
    const now = performance.now();
    this.#level = Math.min(this.#rate, this.#level + ((now - this.#filledAt) / 1000) * this.#rate);
    this.#filledAt = now;
    if (this.#level < 1) return false;
    this.#level -= 1;
    return true;
  }

  /** Milliseconds until one more may go. */
  get waitMs() {
    return ((1 - this.#level) / this.#rate) * 1000;
  }
}

/** A call on its way: waiting for a connection, or for its answer. */
class Call {
  #resolve;
  #reject;
  #timer;
  #signal;
  #abort;

  /**
   * @param {{ type: string, id: number, data: object, to?: Recipients }} frame
   * @param {{ repeatable: boolean, atOnce: boolean }} how `repeatable`: it may be sent again where its answer was lost. `atOnce`: it is for the
   *   connection there is, and for no other.
   * @param {{ timeoutMs: number, signal?: AbortSignal }} options
   * @param {(answer: any) => void} resolve
   * @param {(error: unknown) => void} reject
   * @param {(call: Call) => void} forget
   */
  constructor(frame, { repeatable, atOnce }, { timeoutMs, signal }, resolve, reject, forget) {
    this.frame = frame;
    /** Whether it has gone out, on this connection or an earlier one. */
    this.sent = false;
    this.repeatable = repeatable;
    this.atOnce = atOnce;
    this.#resolve = resolve;
    this.#reject = reject;
    this.#signal = signal;
    this.#abort = () => {
      forget(this);
      this.fail(signal?.reason);
    };
    signal?.addEventListener("abort", this.#abort);
    this.#timer = setTimeout(() => {
      forget(this);
      const message = `${frame.type}: ${this.sent ? "no answer" : "not sent"} within ${timeoutMs} ms`;
      this.fail(new SwitchboardError({ code: "DEADLINE_EXCEEDED", reason: "TIMEOUT", message, sent: this.sent }));
    }, timeoutMs);
  }

  #settle() {
    clearTimeout(this.#timer);
    this.#signal?.removeEventListener("abort", this.#abort);
  }

  /** @param {any} answer */
  succeed(answer) {
    this.#settle();
    this.#resolve(answer);
  }

  /** @param {unknown} error */
  fail(error) {
    this.#settle();
    this.#reject(error);
  }
}

// --- what outlives a connection -------------------------------------------------------------------

/** @type {new <M>() => Target<M>} */
const TypedTarget = /** @type {any} */ (EventTarget);

/**
 * What a client stands in and comes back to after a break: the common part of rooms and subscriptions.
 *
 * @template M
 * @extends {TypedTarget<M>}
 */
class Standing extends TypedTarget {
  /** @type {any} */
  #answer = null;
  /** @type {Promise<any> | null} */
  #starting = null;
  /** @type {((answer: any) => void) | null} */
  #resolve = null;
  /** @type {((error: unknown) => void) | null} */
  #reject = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retry;
  #failures = 0;
  /** Counts what was asked for and given up: an answer to an earlier turn says nothing of how things stand now. */
  #turn = 0;

  /** The client wants to stand here, so it comes back after a break. @internal */
  _wanted = false;
  /** It has stood here before, so the next start is a return. @internal */
  _stood = false;
  /**
   * @type {Switchboard}
   * @internal
   */
  _hub;

  /** @param {Switchboard} hub */
  constructor(hub) {
    super();
    this._hub = hub;
  }

  /**
   * @param {string} type
   * @param {unknown} detail
   * @internal
   */
  _emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /**
   * Starts, once however often it is called. Without a connection it starts with the next one.
   *
   * @param {CallOptions} options
   * @returns {Promise<any>}
   * @internal
   */
  _start(options) {
    if (this.#answer) return Promise.resolve(this.#answer);
    if (this.#starting) return this.#starting;
    const refused = this._hub._refusal();
    if (refused) return Promise.reject(refused);
    this._wanted = true;
    const { promise, resolve, reject } = deferred();
    this.#starting = promise;
    this.#resolve = resolve;
    this.#reject = reject;
    const abandon = abandonment(options.timeoutMs ?? this._hub._timeoutMs, options.signal, (error) => {
      this._wanted = false;
      this._failed(error);
    });
    promise.then(abandon, abandon);
    if (this._hub.state === "open") this._enter();
    return promise;
  }

  /** Sends the frame that starts it, on the connection there is. @internal */
  _enter() {
    clearTimeout(this.#retry);
    const { type, data } = this._request();
    const resumed = this._stood;
    const turn = ++this.#turn;
    // Without a promise, which would be told of the answer only after the frames that follow it.
    this._hub._ask(
      { type, data, atOnce: true },
      {},
      (answer) => {
        if (this._wanted && turn === this.#turn) this._entered(answer, resumed);
      },
      (error) => {
        if (turn === this.#turn) this._refused(/** @type {SwitchboardError} */ (error));
      },
    );
  }

  /**
   * @param {any} answer
   * @param {boolean} resumed
   * @internal
   */
  _entered(answer, resumed) {
    void resumed;
    this.#failures = 0;
    this._stood = true;
    this.#answer = answer;
    this.#resolve?.(answer);
    this.#starting = this.#resolve = this.#reject = null;
  }

  /**
   * @param {SwitchboardError} error
   * @internal
   */
  _refused(error) {
    // The next connection enters again.
    if (!this._wanted || error.reason === "CONNECTION_LOST" || error.reason === "SHUTTING_DOWN") return;
    if (this._stood && error.reason === "TIMEOUT") {
      // The link looks alive and does not answer: a new one is the only way to know where we stand.
      this._hub._abandonLink("the hub did not answer");
    } else if (this._stood && PASSING.has(error.code)) {
      this._restart();
    } else {
      const stood = this._stood;
      this._gone();
      this._failed(error);
      if (stood) this._ended(error);
    }
  }

  /** Starts again after a while, if the connection is still there then. @internal */
  _restart() {
    this.#answer = null;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => {
      if (this._wanted && this._hub.state === "open") this._enter();
    }, this._hub._backoff(this.#failures++));
  }

  /**
   * @param {unknown} error
   * @internal
   */
  _failed(error) {
    this.#reject?.(error);
    this.#starting = this.#resolve = this.#reject = null;
  }

  /**
   * The connection is lost.
   *
   * @param {SwitchboardError | null} error Why it does not come back by itself; null: it does.
   * @internal
   */
  _lost(error) {
    clearTimeout(this.#retry);
    this.#answer = null;
    if (error) {
      this._failed(error);
      // What stood goes on when `connect` is called again; what never did was told that it failed.
      if (!this._stood) this._gone();
    }
  }

  /** It stands here no longer, and does not come back. @internal */
  _gone() {
    clearTimeout(this.#retry);
    this.#turn += 1;
    this._wanted = this._stood = false;
    this.#answer = null;
  }

  /** Whether it stands now. @internal */
  get _standing() {
    return this.#answer !== null;
  }

  /**
   * @returns {{ type: string, data: object }}
   * @internal
   */
  _request() {
    throw new TypeError("abstract");
  }

  /**
   * @param {SwitchboardError} error
   * @internal
   */
  _ended(error) {
    void error;
    throw new TypeError("abstract");
  }
}

/**
 * A room. `Switchboard.room` makes it; after a break it is joined again, and what was missed comes as messages where
 * the room's history has it.
 *
 * @extends {Standing<RoomEvents>}
 */
export class Room extends Standing {
  /** @type {RoomPosition | null} */
  #position = null;
  #notices = false;
  /** Whether what followed a place was asked for. */
  #recovering = false;
  /** How many times leaving was asked for and is not answered yet: what comes until then is from before. */
  #leaving = 0;
  #name;

  /**
   * @param {Switchboard} hub
   * @param {string} name
   * @internal
   */
  constructor(hub, name) {
    super(hub);
    this.#name = name;
  }

  /** Its name. */
  get name() {
    return this.#name;
  }

  /** Whether the connection stands in it now. */
  get joined() {
    return this._standing;
  }

  /** Place of the last message received; null where the room keeps no history. Kept over a reload of the page, it makes `join` bring what came since. */
  get position() {
    return this.#position;
  }

  /**
   * Stands in the room from now on. Safe to call again.
   *
   * @param {CallOptions & { recoverAfter?: RoomPosition, presenceNotices?: boolean }} [options] `recoverAfter`: bring what followed this place;
   *   only where it does not stand there yet, for messages come in their order. `presenceNotices`: tell when others join and leave; where
   *   it stands there already, that changes, and stays as it is if not given.
   * @returns {Promise<RoomJoined>}
   * @throws {SwitchboardError} The hub refused, or did not answer in time.
   */
  join(options = {}) {
    if (!this._wanted) {
      this.#position = options.recoverAfter ?? null;
      this.#notices = options.presenceNotices ?? false;
      return this._start(options);
    }
    const { presenceNotices = this.#notices } = options;
    const changed = presenceNotices !== this.#notices;
    this.#notices = presenceNotices;
    if (!changed || this._hub.state !== "open") return this._start(options);
    // What is on its way says the old wish; the hub takes the last one.
    return this._hub._call("join", { room: this.#name, presence_notices: presenceNotices }, options, { atOnce: true });
  }

  /**
   * Leaves the room. A connection that is down has left it already.
   *
   * @param {CallOptions} [options]
   * @returns {Promise<boolean>} Whether it stood there.
   */
  async leave(options = {}) {
    this._gone();
    this._failed(new SwitchboardError({ code: "CANCELLED", reason: "LEFT", message: `${this.#name}: left before it was joined` }));
    if (this._hub.state !== "open") return false;
    try {
      return await this.#leave(options);
    } catch (error) {
      if (error instanceof SwitchboardError && error.reason === "CONNECTION_LOST") return false;
      throw error;
    }
  }

  /**
   * @param {CallOptions} options
   * @returns {Promise<boolean>}
   */
  #leave(options) {
    this.#leaving += 1;
    const { promise, resolve, reject } = deferred();
    const answered = (/** @type {(value: any) => void} */ settle) => (/** @type {any} */ value) => {
      this.#leaving -= 1;
      settle(value);
    };
    // Told at once, as in `_enter`: the next frame may be about having joined again.
    const what = { type: "leave", data: { room: this.#name }, atOnce: true };
    this._hub._ask(what, options, answered(({ left }) => resolve(left === true)), answered(reject));
    return promise;
  }

  /**
   * Sends a message to the room, and stands in it from then on.
   *
   * @param {string} type What it is, such as "chat".
   * @param {Record<string, any>} data The content.
   * @param {CallOptions} [options]
   * @returns {Promise<Sent>}
   */
  send(type, data, options) {
    return this._hub.send(type, { ...data, room: this.#name }, options);
  }

  /**
   * Tells who is in the room, a page at a time.
   *
   * @param {{ page_size?: number, page_token?: string }} [page]
   * @param {CallOptions} [options]
   * @returns {Promise<Presence>}
   */
  presence(page = {}, options) {
    return this._hub.presence({ ...page, room: this.#name }, options);
  }

  /**
   * Reads the room's history, such as to fill a `gap` with what there is.
   *
   * @param {{ limit?: number, after?: RoomPosition }} [query] `limit`: how many messages at most, 100. `after`: those that follow this place, the earliest first;
   *   else the latest ones.
   * @param {CallOptions} [options]
   * @returns {Promise<{ messages: Message[], contiguous: boolean }>} In their order. `contiguous`: none is missing after `after`.
   */
  async history({ limit = 100, after } = {}, options) {
    const query = { room: this.#name, history_limit: limit, ...(after && { history_after: after }) };
    const { history = [], history_contiguous: contiguous = false } = await this._hub.list("room", query, options);
    const messages = history.map((/** @type {any} */ { message_type: type, rooms = [], ...rest }) => {
      // In the JSON of protobuf a 64-bit number is a string.
      const places = rooms.map((/** @type {any} */ { offset, ...place }) => ({ ...place, offset: Number(offset) }));
      return { type, ...rest, rooms: places };
    });
    return { messages, contiguous };
  }

  /** @internal */
  _request() {
    const { epoch, offset } = this.#position ?? {};
    this.#recovering = Boolean(epoch);
    return {
      type: "join",
      data: {
        room: this.#name,
        ...(epoch && { recover_after: { epoch, offset } }),
        ...(this.#notices && { presence_notices: true }),
      },
    };
  }

  /**
   * The hub says that the connection stands here: asked for by `join`, by a message to the room, or by another client.
   *
   * @param {RoomJoined} data
   * @internal
   */
  _joined(data) {
    if (this.#leaving) return;
    const resumed = this._stood && !this._standing;
    const missing = (resumed || this.#recovering) && data.recovered !== true;
    this.#recovering = false;
    this._wanted = true;
    const { epoch, offset } = data.position ?? {};
    if (!epoch) this.#position = null;
    // Replayed messages follow and move it along; a break in their midst must not skip the rest.
    else if (!data.recovered || !data.replayed) this.#position = { epoch, offset: Number(offset ?? 0) };
    this._entered(data, resumed);
    this._emit("joined", { ...data, resumed, gap: missing });
  }

  /**
   * @param {{ room: string, removed?: boolean }} data
   * @internal
   */
  _left(data) {
    // What `leave` asked for was taken note of then, and the room may have been joined again since.
    if (!this.#leaving) this._gone();
    this._emit("left", data);
  }

  /**
   * @param {Message} message
   * @param {{ epoch?: string, offset?: number }} place Where it stands in this room's history.
   * @param {boolean} fresh Whether it came for the first time.
   * @internal
   */
  _message(message, { epoch, offset }, fresh) {
    if (epoch) {
      const at = Number(offset);
      if (this.#position?.epoch === epoch && at <= this.#position.offset) return;
      this.#position = { epoch, offset: at };
    } else if (!fresh) {
      return;
    }
    this._emit("message", message);
  }

  /**
   * @param {SwitchboardError} error
   * @internal
   */
  _ended(error) {
    this._emit("left", { room: this.#name, error });
  }
}

/**
 * A subscription to events. `Switchboard.subscription` makes it; after a break it goes on after the last event
 * received, or in its group.
 *
 * @extends {Standing<SubscriptionEvents>}
 */
export class Subscription extends Standing {
  /** @type {string | null} */
  #position = null;
  #request;
  #name;

  /**
   * @param {Switchboard} hub
   * @param {string} name
   * @param {Record<string, any>} request
   * @internal
   */
  constructor(hub, name, request) {
    super(hub);
    this.#name = name;
    this.#request = request;
  }

  /** Its name on the connection. */
  get name() {
    return this.#name;
  }

  /** Whether it stands now. */
  get active() {
    return this._standing;
  }

  /**
   * Everything up to this place in the log was received or does not match; null before the start and in a group. Kept over a
   * reload of the page, it makes `after_sequence` of the next subscription.
   */
  get position() {
    return this.#position;
  }

  /**
   * Starts it. Safe to call again.
   *
   * @param {CallOptions} [options]
   * @returns {Promise<{ subscription: string, position?: string, member_id?: string }>}
   * @throws {SwitchboardError} The hub refused, or did not answer in time.
   */
  start(options = {}) {
    this._hub._register(this);
    return this._start(options);
  }

  /**
   * Ends it. Deliveries that were not acknowledged go to other members of the group.
   *
   * @param {CallOptions} [options]
   * @returns {Promise<void>}
   */
  async stop(options = {}) {
    const standing = this._standing || this._wanted;
    this._gone();
    this._failed(new SwitchboardError({ code: "CANCELLED", reason: "STOPPED", message: `${this.#name}: stopped before it was started` }));
    if (!standing || this._hub.state !== "open") return;
    try {
      await this._hub._call("unsubscribe", { subscription: this.#name }, options, { atOnce: true });
    } catch (error) {
      if (!(error instanceof SwitchboardError && error.reason === "CONNECTION_LOST")) throw error;
    }
  }

  /** @internal */
  _gone() {
    super._gone();
    this._hub._unregister(this);
  }

  /**
   * Says that deliveries of the group are done with.
   *
   * @param {(Delivery | string)[]} deliveries Or their `ack_id`s.
   * @param {CallOptions} [options]
   * @returns {Promise<{ results: { ack_id: string, outcome: string }[] }>}
   */
  acknowledge(deliveries, options) {
    return this.#settle("acknowledge", deliveries, {}, options);
  }

  /**
   * Gives deliveries of the group back.
   *
   * @param {(Delivery | string)[]} deliveries Or their `ack_id`s.
   * @param {{ retry_after?: string, dead_letter?: boolean, reason?: string }} [how] `retry_after`: such as "5s".
   * @param {CallOptions} [options]
   * @returns {Promise<{ results: { ack_id: string, outcome: string }[] }>}
   */
  reject(deliveries, how = {}, options) {
    return this.#settle("reject", deliveries, how, options);
  }

  /**
   * Asks for more time for deliveries of the group.
   *
   * @param {(Delivery | string)[]} deliveries Or their `ack_id`s.
   * @param {{ extension?: string }} [how] `extension`: such as "60s", counted from now.
   * @param {CallOptions} [options]
   * @returns {Promise<{ results: { ack_id: string, outcome: string }[] }>}
   */
  extend(deliveries, how = {}, options) {
    return this.#settle("extend", deliveries, how, options);
  }

  /**
   * @param {string} type
   * @param {(Delivery | string)[]} deliveries
   * @param {object} fields
   * @param {CallOptions} [options]
   * @returns {Promise<any>}
   */
  #settle(type, deliveries, fields, options) {
    const ack_ids = deliveries.map((each) => (typeof each === "string" ? each : each.ack_id));
    return this._hub.request(type, { ...fields, group: this.#request.group, ack_ids }, options);
  }

  /** @internal */
  _request() {
    /** @type {Record<string, any>} */
    const data = { ...this.#request, subscription: this.#name };
    if (this.#position !== null) {
      for (const start of ["start_at", "after_time"]) delete data[start];
      data.after_sequence = this.#position;
    }
    return { type: "subscribe", data };
  }

  /**
   * @param {{ position?: string, member_id?: string }} answer
   * @param {boolean} resumed
   * @internal
   */
  _entered(answer, resumed) {
    this.#advance(answer.position ?? "0");
    super._entered(answer, resumed);
    this._emit("started", { position: answer.position ?? "0", member_id: answer.member_id, resumed });
  }

  /**
   * @param {{ deliveries?: Delivery[], control?: { caught_up?: any, gap?: any, heartbeat?: any } }} frame
   * @internal
   */
  _frame({ deliveries = [], control = {} }) {
    for (const delivery of deliveries) {
      if (this.#advance(delivery.event.sequence ?? "0") || this.#request.group) this._emit("delivery", delivery);
    }
    if (control.gap) {
      this.#advance(control.gap.to_sequence);
      this._emit("gap", control.gap);
    }
    const word = control.caught_up ?? control.heartbeat;
    if (word) this.#advance(word.position ?? "0");
    if (control.caught_up) this._emit("caughtup", control.caught_up);
  }

  /**
   * @param {{ code: string, reason: string, message?: string }} data
   * @internal
   */
  _stopped(data) {
    if (!this._wanted) return;
    if (PASSING.has(data.code)) {
      this._restart();
    } else {
      this._gone();
      this._ended(new SwitchboardError(data));
    }
  }

  /**
   * @param {SwitchboardError} error
   * @internal
   */
  _ended(error) {
    this._emit("ended", { error });
  }

  /**
   * @param {string} sequence
   * @returns {boolean} Whether it lies further on.
   */
  #advance(sequence) {
    if (this.#request.group) return false;
    if (this.#position !== null && BigInt(sequence) <= BigInt(this.#position)) return false;
    this.#position = String(sequence);
    return true;
  }
}

// --- the client -----------------------------------------------------------------------------------

/** Types of frames that say what the hub is to do, and are no messages: those of the table in `PROTOCOL.md`. */
const COMMANDS = new Set([
  ...["join", "leave", "presence", "publish", "subscribe", "unsubscribe", "acknowledge", "reject", "extend"],
  ...["call", "list", "heartbeat", "refresh", "auth"],
]);

/** How many names of messages are remembered, to tell those that a replay brings again. */
const REMEMBERED = 4096;

/**
 * A connection to a hub, over as many WebSockets as it takes.
 *
 * ```js
 * const hub = new Switchboard("ws://localhost:8008", { clientId: "client123" });
 * const room = hub.room("general");
 * room.addEventListener("message", ({ detail }) => console.log(detail.data.message));
 * await hub.connect();
 * await room.join();
 * await room.send("chat", { message: "hi" });
 * ```
 *
 * @extends {TypedTarget<HubEvents>}
 */
export class Switchboard extends TypedTarget {
  #url;
  #options;
  /** @type {TokenSource | undefined} */
  #token;
  /** @type {string | undefined} */
  #clientId;
  /** @type {string | undefined} */
  #user;
  /** @type {"idle" | "connecting" | "open" | "waiting" | "closed"} */
  #state = "idle";
  /** @type {Link | null} */
  #link = null;
  #attempt = 0;
  #turn = 0;
  #opened = false;
  #openedAt = 0;
  #maxFrameBytes = Infinity;
  #pace = new Pace(0);
  #draining = false;
  /**
   * Why the hub is about to end the connection, as it said before doing so.
   *
   * @type {CloseReason | null}
   */
  #farewell = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #pacing;
  #lastId = 0;
  #lastSubscription = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retry;
  /** @type {Deferred | null} */
  #opening = null;
  /** @type {Map<number, Call>} */
  #calls = new Map();
  /** @type {Call[]} */
  #waiting = [];
  /** @type {Map<string, Room>} */
  #rooms = new Map();
  /** @type {Map<string, Subscription>} */
  #subscriptions = new Map();
  #recent = new Recent(REMEMBERED);

  /**
   * @param {string | URL} url Where the hub is, such as "ws://localhost:8008"; "http:" and, in a page, relative ones are taken too.
   * @param {Options} [options]
   */
  constructor(url, options = {}) {
    super();
    const { offline = "wait", maxWaiting = 1000, timeoutMs = 10_000, openTimeoutMs = 10_000 } = options;
    const { minBackoffMs = 500, maxBackoffMs = 20_000, stableMs = 10_000 } = options;
    const Class = options.WebSocket ?? /** @type {any} */ (globalThis).WebSocket;
    if (!Class) throw new TypeError("there is no global WebSocket: pass options.WebSocket, such as that of the package ws");
    if (offline !== "wait" && offline !== "reject") throw new TypeError(`options.offline is "wait" or "reject", not ${offline}`);
    if (options.clientId === "." || options.clientId === "..") throw new TypeError(`options.clientId cannot be "${options.clientId}", which is left out of addresses`);
    this.#options = { offline, maxWaiting, timeoutMs, openTimeoutMs, minBackoffMs, maxBackoffMs, stableMs, WebSocket: Class };
    this.#token = options.token;
    this.#clientId = options.clientId;
    this.#user = options.user;
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace(/^http/, "ws");
  }

  /**
   * "idle" before `connect`, "connecting", "open", "waiting" for the next attempt, "closed" for good.
   */
  get state() {
    return this.#state;
  }

  /** Name of the connection, once there is one. */
  get clientId() {
    return this.#clientId;
  }

  /** Whose connection it is, once the hub has said so. */
  get user() {
    return this.#user;
  }

  /**
   * Connects, and comes back after every break until `close` is called or the hub says not to (close codes 4500 to 4999): after a
   * while, or at once when the browser is online again. After such an end it may be called again; rooms and subscriptions go on then.
   *
   * @returns {Promise<void>} The first connection stands. It waits for a hub that is not there yet.
   * @throws {SwitchboardError} The hub does not want this client, or `close` was called.
   */
  connect() {
    if (this.#opening && this.#state !== "closed") return this.#opening.promise;
    this.#opening = deferred();
    // It is told by `close` as well, so nobody needs to wait for it.
    this.#opening.promise.catch(() => {});
    this.#attempt = 0;
    // Pages and workers hear it, Node has nothing like it.
    globalThis.addEventListener?.("online", this.#online);
    void this.#dial();
    return this.#opening.promise;
  }

  /** Closes the connection and does not come back. Calls that wait fail with CLOSED. */
  close() {
    if (this.#state === "idle" || this.#state === "closed") return;
    const close = { ...localClose("CLOSED", "closed by this side", false), code: 1000 };
    if (this.#link) this.#link.end(close);
    else this.#ended(close);
  }

  /**
   * The room of this name: the same object each time.
   *
   * @param {string} name
   * @returns {Room}
   */
  room(name) {
    let room = this.#rooms.get(name);
    if (!room) this.#rooms.set(name, (room = new Room(this, name)));
    return room;
  }

  /**
   * A subscription, to be started when it has its listeners.
   *
   * @param {Record<string, any>} [request] Fields of `SubscribeRequest`, such as `{ filter: { types: ["order.*"] }, start_at: "START_AT_EARLIEST" }`.
   * @param {{ name?: string }} [options] `name`: its name on the connection; default: one is made.
   * @returns {Subscription}
   */
  subscription(request = {}, { name = `subscription-${++this.#lastSubscription}` } = {}) {
    return new Subscription(this, name, request);
  }

  /**
   * Sends a message in the name of this connection.
   *
   * @param {string} type What it is, such as "chat"; the commands of `PROTOCOL.md` are no messages.
   * @param {Record<string, any>} data The content. Without `to` it goes to the room `data.room`.
   * @param {CallOptions & { to?: Recipients }} [options] `to`: to whom it goes. A command takes none, and fails with INVALID_FIELD.
   * @returns {Promise<Sent>}
   */
  send(type, data, { to, ...options } = {}) {
    if (to && COMMANDS.has(type)) {
      const description = `is for messages, and "${type}" is a command`;
      const violations = [{ field: "to", description }];
      return Promise.reject(new SwitchboardError({ code: "INVALID_ARGUMENT", reason: "INVALID_FIELD", message: `to: ${description}`, violations, sent: false }));
    }
    return this._call(type, data, options, { to });
  }

  /**
   * Publishes an event; answered when it is durable. One with an `id` is sent again where its answer was lost, and stored once.
   *
   * @param {Event} event
   * @param {CallOptions} [options]
   * @returns {Promise<Published>}
   */
  publish(event, options) {
    return this._call("publish", event, options, { repeatable: Boolean(event.id) });
  }

  /**
   * Publishes several events, with a result for each: the good are accepted, whatever is wrong with others.
   *
   * @param {Event[]} events
   * @param {CallOptions} [options]
   * @returns {Promise<{ results: any[] }>}
   */
  publishBatch(events, options) {
    return this._call("publish", { events }, options, { repeatable: events.every((event) => event.id) });
  }

  /**
   * Publishes an event as a request to a service, and waits for its response.
   *
   * @param {Event} event With a `target_service`.
   * @param {CallOptions} [options] `timeoutMs`: how long to wait for the response, 30 s unless it is given.
   * @returns {Promise<Event>}
   */
  async call(event, { timeoutMs = 30_000, signal } = {}) {
    const data = { event, timeout_seconds: timeoutMs / 1000 };
    // The hub's own error says more than our timeout, so it gets the time to arrive.
    const answer = await this._call("call", data, { timeoutMs: timeoutMs + 2_000, signal });
    return answer.event;
  }

  /**
   * Tells who is online.
   *
   * @param {{ room?: string, users?: string[], page_size?: number, page_token?: string }} [query]
   * @param {CallOptions} [options]
   * @returns {Promise<Presence>}
   */
  presence(query = {}, options) {
    return this._call("presence", query, options, { repeatable: true });
  }

  /**
   * Lists something, a page at a time.
   *
   * @param {"rooms" | "room" | "connections" | "events" | "groups" | "services"} what
   * @param {Record<string, any>} [fields] Of the rpc's request.
   * @param {CallOptions} [options]
   * @returns {Promise<any>} The rpc's response.
   */
  list(what, fields = {}, options) {
    return this._call("list", { ...fields, what }, options, { repeatable: true });
  }

  /**
   * Puts a new token on the live connection, and uses it for later ones unless a function gives those.
   *
   * @param {string} token Of the same user.
   * @param {CallOptions} [options]
   * @returns {Promise<{ expire_time?: string }>}
   */
  refresh(token, options) {
    if (typeof this.#token !== "function") this.#token = token;
    return this._call("refresh", { token }, options, { atOnce: true });
  }

  /**
   * Measures the way to the hub and back.
   *
   * @param {CallOptions} [options]
   * @returns {Promise<number>} Milliseconds.
   */
  async ping(options) {
    const began = performance.now();
    await this._call("heartbeat", {}, options, { atOnce: true });
    return performance.now() - began;
  }

  /**
   * Sends any frame of `PROTOCOL.md`, for what has no method of its own.
   *
   * @param {string} type
   * @param {Record<string, any>} data
   * @param {CallOptions} [options]
   * @returns {Promise<any>} `data` of the answer.
   */
  request(type, data, options) {
    return this._call(type, data, options);
  }

  // --- calls

  /** @internal */
  get _timeoutMs() {
    return this.#options.timeoutMs;
  }

  /**
   * @param {number} attempt
   * @internal
   */
  _backoff(attempt) {
    const { minBackoffMs, maxBackoffMs } = this.#options;
    return Math.random() * Math.min(maxBackoffMs, minBackoffMs * 2 ** attempt);
  }

  /**
   * Why a call cannot be taken now; null if it can.
   *
   * @param {boolean} [atOnce]
   * @returns {SwitchboardError | null}
   * @internal
   */
  _refusal(atOnce = false) {
    if (this.#state === "open") return null;
    if (this.#state === "closed") {
      return new SwitchboardError({ code: "UNAVAILABLE", reason: "CLOSED", message: "the connection is closed", sent: false });
    }
    if (this.#options.offline === "wait" && !atOnce) return null;
    return new SwitchboardError({ code: "UNAVAILABLE", reason: "NOT_CONNECTED", message: "there is no connection now", sent: false });
  }

  /**
   * @param {string} type
   * @param {object} data
   * @param {CallOptions} [options]
   * @param {{ to?: Recipients, repeatable?: boolean, atOnce?: boolean }} [how] See `Call`.
   * @returns {Promise<any>}
   * @internal
   */
  _call(type, data, options = {}, { to, repeatable, atOnce } = {}) {
    return new Promise((resolve, reject) => this._ask({ type, data, to, repeatable, atOnce }, options, resolve, reject));
  }

  /**
   * @param {{ type: string, data: object, to?: Recipients, repeatable?: boolean, atOnce?: boolean }} what
   * @param {CallOptions} options
   * @param {(answer: any) => void} resolve
   * @param {(error: unknown) => void} reject
   * @internal
   */
  _ask({ type, data, to, repeatable = false, atOnce = false }, { timeoutMs = this.#options.timeoutMs, signal }, resolve, reject) {
    if (signal?.aborted) return reject(signal.reason);
    const refused = this._refusal(atOnce);
    if (refused) return reject(refused);
    if (this.#waiting.length >= this.#options.maxWaiting && !atOnce) {
      const message = `${this.#waiting.length} calls wait already`;
      return reject(new SwitchboardError({ code: "RESOURCE_EXHAUSTED", reason: "QUEUE_FULL", message, sent: false }));
    }
    const frame = { type, id: ++this.#lastId, data, ...(to && { to }) };
    this.#waiting.push(new Call(frame, { repeatable, atOnce }, { timeoutMs, signal }, resolve, reject, (each) => this.#forget(each)));
    this.#flush();
  }

  /** Sends what waits, as fast as the hub takes it. */
  #flush() {
    clearTimeout(this.#pacing);
    if (this.#state !== "open" || this.#draining) return;
    while (this.#waiting.length && this.#pace.take()) this.#send(/** @type {Call} */ (this.#waiting.shift()));
    if (this.#waiting.length) this.#pacing = setTimeout(() => this.#flush(), this.#pace.waitMs);
  }

  /** @param {Call} call */
  #send(call) {
    try {
      const text = JSON.stringify(call.frame);
      // A character is at most three bytes, so most frames need not be measured.
      if (text.length * 3 > this.#maxFrameBytes && new TextEncoder().encode(text).length > this.#maxFrameBytes) {
        const message = `${call.frame.type}: a frame has at most ${this.#maxFrameBytes} bytes`;
        throw new SwitchboardError({ code: "INVALID_ARGUMENT", reason: "TOO_LARGE", message, sent: false });
      }
      call.sent = true;
      this.#link?.send(text);
      this.#calls.set(call.frame.id, call);
    } catch (error) {
      call.fail(error);
    }
  }

  /** @param {Call} call */
  #forget(call) {
    this.#calls.delete(call.frame.id);
    this.#waiting = this.#waiting.filter((each) => each !== call);
  }

  // --- connecting

  /** The device has a network again: what kept the last attempts from succeeding is over. */
  #online = () => {
    if (this.#state !== "waiting") return;
    clearTimeout(this.#retry);
    this.#attempt = 0;
    void this.#dial();
  };

  async #dial() {
    const turn = ++this.#turn;
    this.#state = "connecting";
    this.#emit("connecting", { attempt: this.#attempt });
    let token;
    try {
      token = await within(this.#askToken("connect"), this.#options.openTimeoutMs, "the token");
    } catch (error) {
      if (turn === this.#turn) this.#ended(localClose("TOKEN_UNAVAILABLE", /** @type {Error} */ (error).message));
      return;
    }
    // Meanwhile it may have been closed, or even connected anew.
    if (turn !== this.#turn) return;
    try {
      const socket = new this.#options.WebSocket(this.#address(), token ? ["bearer", token] : []);
      this.#link = new Link(
        socket,
        this.#options.openTimeoutMs,
        (text) => this.#receive(text),
        (close) => this.#ended(this.#said(close)),
      );
    } catch (error) {
      this.#ended(localClose("NOT_POSSIBLE", String(error), false));
    }
  }

  #address() {
    const url = new URL(this.#url);
    url.pathname = `${url.pathname.replace(/\/$/, "")}/ws/${encodeURIComponent(this.#clientId ?? "")}`;
    if (this.#user && !this.#token) url.searchParams.set("user", this.#user);
    return url.href;
  }

  /**
   * @param {"connect" | "expiring"} reason
   * @returns {Promise<string | undefined>}
   */
  async #askToken(reason) {
    try {
      return typeof this.#token === "function" ? await this.#token({ reason }) : this.#token;
    } catch (cause) {
      throw new SwitchboardError({ code: "UNAUTHENTICATED", reason: "TOKEN_UNAVAILABLE", message: String(cause), cause });
    }
  }

  /**
   * @param {{ client_id: string, user?: string, node?: string, heartbeat_seconds: number, max_frame_bytes: number,
   *   max_frames_per_second: number }} started
   */
  #started(started) {
    const resumed = this.#opened;
    this.#clientId = started.client_id;
    this.#user = started.user || undefined;
    this.#maxFrameBytes = started.max_frame_bytes;
    this.#pace = new Pace(started.max_frames_per_second);
    this.#opened = true;
    this.#openedAt = performance.now();
    this.#state = "open";
    this.#draining = false;
    this.#link?.watch(started.heartbeat_seconds * 2000);
    // Frames are answered in order: first stand where we stood, then say what waits to be said there.
    const waiting = this.#waiting.splice(0);
    for (const standing of this.#standings()) if (standing._wanted) standing._enter();
    this.#waiting.push(...waiting);
    this.#flush();
    this.#opening?.resolve(undefined);
    this.#emit("open", { client_id: started.client_id, user: started.user, node: started.node, resumed });
  }

  /**
   * An end as the hub explained it, where it did: a close frame has room for little, and may be lost with the link.
   *
   * @param {CloseReason} close
   * @returns {CloseReason}
   */
  #said(close) {
    return close.reason === "CLOSED" ? close : (this.#farewell ?? close);
  }

  /**
   * A connection ended, or an attempt to make one failed.
   *
   * @param {CloseReason} close
   */
  #ended(close) {
    const turn = ++this.#turn;
    clearTimeout(this.#retry);
    clearTimeout(this.#pacing);
    this.#link = null;
    this.#farewell = null;
    if (this.#state === "open" && performance.now() - this.#openedAt >= this.#options.stableMs) this.#attempt = 0;
    this.#state = close.reconnect ? "waiting" : "closed";
    const code = REFUSALS[close.reason] ?? "UNAVAILABLE";
    const reason = close.reconnect ? "CONNECTION_LOST" : "CLOSED";
    const fields = { code, reason, message: `${close.reason} ${close.message}`.trimEnd(), close };
    const error = new SwitchboardError(fields);
    this.#dropCalls(close, fields);
    for (const standing of this.#standings()) standing._lost(close.reconnect ? null : error);
    if (!close.reconnect) {
      globalThis.removeEventListener?.("online", this.#online);
      this.#opening?.reject(error);
    }
    const delayMs = close.reconnect ? this._backoff(this.#attempt++) : 0;
    if (close.reconnect) this.#retry = setTimeout(() => void this.#dial(), delayMs);
    // A listener may call `connect` or `close`, so it comes last.
    if (turn === this.#turn) this.#emit("close", { ...close, willReconnect: close.reconnect, delayMs });
  }

  /**
   * @param {CloseReason} close
   * @param {{ code: string, reason: string, message: string, close: CloseReason }} fields What their error says.
   */
  #dropCalls(close, fields) {
    const sent = [...this.#calls.values()];
    this.#calls.clear();
    const again = close.reconnect && this.#options.offline === "wait";
    const calls = [...sent.map((call) => ({ call, kept: again && call.repeatable })), ...this.#waiting.map((call) => ({ call, kept: again && !call.atOnce }))];
    this.#waiting = calls.filter(({ kept }) => kept).map(({ call }) => call);
    const failed = calls.filter(({ kept }) => !kept).map(({ call }) => call);
    for (const call of failed) call.fail(new SwitchboardError({ ...fields, sent: call.sent }));
  }

  /**
   * @param {string} message
   * @internal
   */
  _abandonLink(message) {
    this.#link?.end(localClose("DEAD_LINK", message));
  }

  /** @param {Subscription} subscription @internal */
  _register(subscription) {
    const { name } = subscription;
    const other = this.#subscriptions.get(name);
    if (other && other !== subscription && other._wanted) throw new TypeError(`there is a subscription ${name} already`);
    this.#subscriptions.set(name, subscription);
  }

  /** @param {Subscription} subscription @internal */
  _unregister(subscription) {
    if (this.#subscriptions.get(subscription.name) === subscription) this.#subscriptions.delete(subscription.name);
  }

  /** @returns {Iterable<Room | Subscription>} */
  #standings() {
    return [...this.#rooms.values(), ...this.#subscriptions.values()];
  }

  // --- frames

  /** @param {string} text */
  #receive(text) {
    const frame = JSON.parse(text);
    // Whatever its type, and before it: a message may call itself "system".
    if (frame.message_id) return this.#message(frame);
    switch (frame.type) {
      case "ack":
      case "heartbeat":
        return this.#take(frame.id)?.succeed(frame.data ?? {});
      case "error":
        return this.#error(frame);
      case "event":
        return this.#subscriptions.get(frame.subscription)?._frame(frame);
      case "presence":
        return this.#rooms.get(frame.data.room)?._emit("presence", frame.data);
      case "system":
        return this.#system(frame.data);
    }
  }

  /**
   * @param {number | undefined} id
   * @returns {Call | undefined}
   */
  #take(id) {
    if (id === undefined) return undefined;
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    return call;
  }

  /** @param {any} frame */
  #error(frame) {
    const error = new SwitchboardError(frame);
    if (frame.close) this.#farewell = closeReason(frame.close, error.message);
    const call = this.#take(frame.id);
    if (call?.repeatable && error.reason === "SHUTTING_DOWN" && this.#options.offline === "wait") {
      // The hub is about to close the connection, and does what is asked on the next one.
      this.#draining = true;
      this.#waiting.push(call);
    } else if (call) call.fail(error);
    else if (frame.id === undefined && !frame.close) this.#emit("error", error);
  }

  /** @param {Message} message */
  #message(message) {
    const fresh = this.#recent.add(message.message_id);
    for (const place of message.rooms ?? []) this.#rooms.get(place.room)?._message(message, place, fresh);
    if (fresh) this.#emit("message", message);
  }

  /** @param {any} data */
  #system(data) {
    switch (data.event) {
      case "started":
        return this.#started(data);
      case "joined":
        return this.room(data.room)._joined(without(data, "event"));
      case "left":
        return this.room(data.room)._left(without(data, "event"));
      case "dropped":
        return this.#emit("dropped", { count: Number(data.count) });
      case "subscription_ended":
        return this.#subscriptions.get(data.subscription)?._stopped(data);
      case "token_expiring":
        return void this.#expiring(data.seconds);
    }
  }

  /** @param {number} seconds */
  async #expiring(seconds) {
    this.#emit("tokenexpiring", { seconds });
    if (typeof this.#token !== "function") return;
    try {
      const token = await this.#askToken("expiring");
      if (token && this.#state === "open") await this.refresh(token);
    } catch (error) {
      // Not the end yet: the hub closes with TOKEN_EXPIRED, and the next connection asks again.
      // The end, where it came meanwhile, is told already.
      if (error instanceof SwitchboardError && !error.close) this.#emit("error", error);
    }
  }

  /**
   * @param {string} type
   * @param {unknown} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

// --- helpers --------------------------------------------------------------------------------------

/** @typedef {{ promise: Promise<any>, resolve: (value: any) => void, reject: (error: unknown) => void }} Deferred */

/** @returns {Deferred} */
function deferred() {
  /** @type {any} */
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

/**
 * Fails with TIMEOUT, or with the signal's reason.
 *
 * @param {number} timeoutMs
 * @param {AbortSignal | undefined} signal
 * @param {(error: unknown) => void} fail
 * @returns {() => void} Calls it off.
 */
function abandonment(timeoutMs, signal, fail) {
  const abort = () => fail(signal?.reason);
  const message = `not done within ${timeoutMs} ms`;
  const timer = setTimeout(() => fail(new SwitchboardError({ code: "DEADLINE_EXCEEDED", reason: "TIMEOUT", message })), timeoutMs);
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();
  return () => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  };
}

/**
 * @template T
 * @param {Promise<T>} promise
 * @param {number} timeoutMs
 * @param {string} what
 * @returns {Promise<T>}
 */
function within(promise, timeoutMs, what) {
  const { promise: late, reject } = deferred();
  const timer = setTimeout(() => reject(new Error(`${what} did not come within ${timeoutMs} ms`)), timeoutMs);
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/**
 * @param {Record<string, any>} object
 * @param {string} key
 * @returns {any}
 */
function without(object, key) {
  const { [key]: _, ...rest } = object;
  return rest;
}
