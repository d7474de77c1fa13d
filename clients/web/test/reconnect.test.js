/** Timing and policy of the connection, against a scripted server. What the hub does is tested against the hub: hub.test.js. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, mock, test } from "node:test";
import { WebSocket as PackageSocket } from "ws";

import { Switchboard, SwitchboardError } from "../switchboard.js";
import { Gathered, ScriptedHub, next } from "./scripted.js";

const PROTOCOL = readFileSync(new URL("../PROTOCOL.md", import.meta.url), "utf8");
/** The types in the table of frames to the hub, and the one that its text names. */
const COMMANDS = [...[...PROTOCOL.matchAll(/^\| `([a-z]+)` \|/gm)].map(([, name]) => name), "auth"];
/** Code and name, as PROTOCOL.md has them. */
const CODES = [...PROTOCOL.matchAll(/^\| (4\d{3}) \| `(\w+)` \|/gm)].map(([, code, name]) => [Number(code), name]);
assert.ok(CODES.length >= 13);
// Codes that a later hub may have.
CODES.push([4499, "OTHER"], [4999, "OTHER"]);

const FAST = { minBackoffMs: 5, maxBackoffMs: 40 };
const SOCKETS = { global: globalThis.WebSocket, ws: PackageSocket };

for (const [name, Socket] of Object.entries(SOCKETS)) {
  describe(`with the WebSocket of ${name}`, { timeout: 20_000 }, () => {
    /** @type {ScriptedHub} */
    let hub;
    /** @type {Switchboard[]} */
    let clients;

    beforeEach(async () => {
      hub = await new ScriptedHub().listen();
      clients = [];
    });

    afterEach(async () => {
      mock.restoreAll();
      for (const client of clients) client.close();
      await hub.close();
    });

    function client(options = {}) {
      const made = new Switchboard(hub.url, { WebSocket: Socket, ...FAST, ...options });
      clients.push(made);
      return made;
    }

    async function connected(options = {}) {
      const made = client(options);
      made.connect();
      const link = await hub.open();
      await next(made, "open");
      return { client: made, link };
    }

    test("the wait doubles from 0.5 s to 20 s, at random from 0 on, and begins anew after a stable connection", async () => {
      mock.method(Math, "random", () => 0.5);
      mock.timers.enable({ apis: ["setTimeout"] });
      const lonely = client({ minBackoffMs: 500, maxBackoffMs: 20_000, token: () => Promise.reject(new Error("none")) });
      const closes = Gathered.of(lonely, "close");
      lonely.connect();
      for (let count = 1; count <= 8; count++) {
        await closes.until(count);
        mock.timers.tick(closes.at(-1).delayMs);
      }
      mock.timers.reset();
      assert.deepEqual(
        closes.slice(0, 8).map((close) => close.delayMs),
        [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000],
      );
    });

    test("a browser that is online again connects at once, and one whose client is closed does not", async (context) => {
      const page = new EventTarget();
      for (const name of ["addEventListener", "removeEventListener"]) {
        globalThis[name] = page[name].bind(page);
        context.after(() => delete globalThis[name]);
      }
      mock.method(Math, "random", () => 1);
      const { client: mine, link } = await connected({ minBackoffMs: 60_000, maxBackoffMs: 60_000 });
      const attempts = Gathered.of(mine, "connecting");
      // While it is connected there is nothing to do.
      page.dispatchEvent(new Event("online"));
      link.socket.close(4000);
      assert.equal((await next(mine, "close")).delayMs, 60_000);
      page.dispatchEvent(new Event("online"));
      await hub.open();
      await next(mine, "open");
      assert.equal(attempts.length, 1);
      mine.close();
      page.dispatchEvent(new Event("online"));
      assert.equal(attempts.length, 1);
      const connecting = mine.connect();
      await hub.open();
      await connecting;
    });

    test("a connection that did not last does not reset the back-off, and one that did does", async () => {
      mock.method(Math, "random", () => 0.999);
      for (const [stableMs, attempts] of [[0, [0, 0, 0]], [60_000, [0, 1, 2]]]) {
        const mine = client({ stableMs });
        const seen = Gathered.of(mine, "connecting");
        mine.connect();
        for (const _ of attempts) {
          const link = await hub.open();
          await next(mine, "open");
          link.socket.close(4000);
          await next(mine, "close");
        }
        assert.deepEqual(seen.slice(0, 3).map(({ attempt }) => attempt), stableMs ? attempts : [0, 1, 1]);
        mine.close();
      }
    });

    for (const [code, reason] of CODES) {
      test(`close code ${code} is ${reason}, and ${code < 4500 ? "followed by another connection" : "the end"}`, async () => {
        const { client: mine, link } = await connected();
        const call = mine.list("rooms");
        await link.frame();
        const closed = next(mine, "close");
        link.socket.close(code, "why");
        const told = await closed;
        assert.deepEqual([told.code, told.reason, told.message, told.willReconnect], [code, reason, "why", code < 4500]);
        if (code < 4500) {
          const second = await hub.open();
          assert.equal((await next(mine, "open")).resumed, true);
          second.ack(await second.frame(), { rooms: [] });
          await call;
        } else {
          assert.equal(mine.state, "closed");
          await assert.rejects(call, { name: "SwitchboardError", reason: "CLOSED" });
          await assert.rejects(mine.list("rooms"), { reason: "CLOSED" });
          assert.equal(hub.connections.length, 1);
        }
      });
    }

    test("the error that a connection ends with is told by close, with its text, and one that ends nothing by error", async () => {
      const { client: mine, link } = await connected();
      const told = [];
      for (const type of ["error", "close"]) mine.addEventListener(type, ({ detail }) => told.push([type, detail.code, detail.reason, detail.message]));
      link.send({ type: "error", code: "INVALID_ARGUMENT", reason: "MALFORMED_REQUEST", message: "no frame" });
      link.send({ type: "error", close: 4000, code: "UNAVAILABLE", reason: "SHUTTING_DOWN", message: "the hub stops" });
      link.socket.close(4000, "SHUTTING_DOWN");
      // Where the close frame is lost, the policy is known all the same.
      const second = await hub.open();
      await next(mine, "open");
      second.send({ type: "error", close: 4503, code: "PERMISSION_DENIED", reason: "PERMISSION_DENIED", message: "not you" });
      second.socket.terminate();
      await next(mine, "close");
      assert.deepEqual(told, [
        ["error", "INVALID_ARGUMENT", "MALFORMED_REQUEST", "no frame"],
        ["close", 4000, "SHUTTING_DOWN", "the hub stops"],
        ["close", 4503, "PERMISSION_DENIED", "not you"],
      ]);
      assert.equal(mine.state, "closed");
      // It says nothing of the connections after it.
      mine.connect();
      const third = await hub.open();
      await next(mine, "open");
      third.socket.close(4001);
      assert.equal((await next(mine, "close")).reason, "SLOW_CONSUMER");
    });

    test("connect fails where the hub refuses for good, and may be called again", async () => {
      const mine = client({ token: "wrong" });
      const connecting = mine.connect();
      (await hub.connection()).socket.close(4502, "expired");
      await assert.rejects(connecting, (error) => error instanceof SwitchboardError && error.code === "UNAUTHENTICATED" && error.close?.reason === "TOKEN_INVALID");
      const again = mine.connect();
      await hub.open();
      await again;
      assert.equal(mine.state, "open");
    });

    test("a link on which nothing is heard for twice the heartbeat is given up", async () => {
      hub.started.heartbeat_seconds = 0.5;
      const { client: mine, link } = await connected();
      const closed = next(mine, "close");
      const began = performance.now();
      const beat = setTimeout(() => link.send({ type: "heartbeat" }), 300);
      const { reason, delayMs } = await closed;
      clearTimeout(beat);
      assert.equal(reason, "DEAD_LINK");
      // A second after the heartbeat, not after the start.
      assert.ok(performance.now() - began >= 1290, "the heartbeat was not counted");
      assert.ok(delayMs <= FAST.maxBackoffMs);
      await hub.open();
    });

    test("an attempt that is not answered is given up", async () => {
      const mine = client({ openTimeoutMs: 250 });
      mine.connect();
      await hub.connection();
      assert.equal((await next(mine, "close")).reason, "OPEN_TIMEOUT");
      // On a busy machine one that is answered may be given up as well.
      let opened = false;
      const open = next(mine, "open").then(() => (opened = true));
      while (!opened) await Promise.race([open, hub.open()]);
    });

    test("an attempt that is refused is followed by the next one without delay", async () => {
      const mine = new Switchboard("ws://127.0.0.1:1", { WebSocket: Socket, ...FAST, openTimeoutMs: 60_000 });
      clients.push(mine);
      const closes = Gathered.of(mine, "close");
      mine.connect();
      await closes.until(3);
      assert.deepEqual(closes.map(({ code, reason }) => [code, reason]).slice(0, 3), Array(3).fill([1006, "CONNECTION_LOST"]));
    });

    test("calls made without a connection wait for one, in order and bounded", async () => {
      const mine = client({ maxWaiting: 2 });
      const calls = [mine.publish({ type: "a", source_service: "s" }), mine.send("chat", { room: "r" })];
      await assert.rejects(mine.list("rooms"), { code: "RESOURCE_EXHAUSTED", reason: "QUEUE_FULL", sent: false });
      mine.connect();
      const link = await hub.open();
      for (const type of ["publish", "chat"]) {
        const frame = await link.frame();
        assert.equal(frame.type, type);
        link.ack(frame, { of: type });
      }
      assert.deepEqual(await Promise.all(calls), [{ of: "publish" }, { of: "chat" }]);
    });

    test("a call that failed says whether it was sent", async () => {
      const { client: mine, link } = await connected();
      const sent = mine.send("chat", { room: "r" });
      await link.frame();
      link.socket.close(4000);
      await assert.rejects(sent, { reason: "CONNECTION_LOST", sent: true });
      await assert.rejects(mine.list("rooms", {}, { timeoutMs: 1 }), { reason: "TIMEOUT", sent: false });
      await assert.rejects(mine.ping(), { reason: "NOT_CONNECTED", sent: false });
      mine.close();
      await assert.rejects(mine.list("rooms"), { reason: "CLOSED", sent: false });
    });

    test("or fail at once, where that is asked for", async () => {
      const mine = client({ offline: "reject" });
      await assert.rejects(mine.list("rooms"), { code: "UNAVAILABLE", reason: "NOT_CONNECTED" });
      await assert.rejects(mine.room("r").join(), { reason: "NOT_CONNECTED" });
    });

    test("a call whose answer was lost is sent again where that is safe, and else fails", async () => {
      const { client: mine, link } = await connected();
      const safe = mine.publish({ id: "1", type: "a", source_service: "s" });
      const unsafe = mine.publish({ type: "a", source_service: "s" });
      await link.frame();
      await link.frame();
      link.socket.close(4000);
      await assert.rejects(unsafe, (error) => error.reason === "CONNECTION_LOST" && error.close.reason === "SHUTTING_DOWN");
      const second = await hub.open();
      const frame = await second.frame();
      assert.equal(frame.data.id, "1");
      second.ack(frame, { sequence: "7", duplicate: true });
      assert.deepEqual(await safe, { sequence: "7", duplicate: true });
      assert.equal(second.pending, 0);
    });

    test("a call that a stopping hub refuses is made on the next connection where that is safe, after those before it", async () => {
      const { client: mine, link } = await connected();
      const first = mine.publish({ id: "1", type: "a", source_service: "s" });
      link.refuse(await link.frame(), "UNAVAILABLE", "SHUTTING_DOWN");
      link.send({ type: "system", data: { event: "dropped", count: 1 } });
      await next(mine, "dropped");
      const rooms = mine.list("rooms");
      const joining = mine.room("r").join();
      link.socket.close(4000);
      const second = await hub.open();
      for (const [type, answer] of [["join", { room: "r" }], ["publish", { sequence: "1" }], ["list", { rooms: [] }]]) {
        const frame = await second.frame();
        assert.equal(frame.type, type);
        second.ack(frame, answer);
      }
      assert.deepEqual(await Promise.all([first, rooms, joining]), [{ sequence: "1" }, { rooms: [] }, { room: "r" }]);
    });

    test("a call fails with the hub's error, with its fields", async () => {
      const { client: mine, link } = await connected();
      const call = mine.publish({ type: "", source_service: "s" });
      const frame = await link.frame();
      const violations = [{ field: "event.type", description: "is required" }];
      link.send({ type: "error", id: frame.id, code: "INVALID_ARGUMENT", reason: "FIELD_MISSING", message: "type: is required", violations, metadata: { a: "b" } });
      await assert.rejects(call, { code: "INVALID_ARGUMENT", reason: "FIELD_MISSING", message: "type: is required", violations, metadata: { a: "b" } });
    });

    test("a call that is not answered in time fails, and a late answer harms nobody", async () => {
      const { client: mine, link } = await connected();
      const call = mine.list("rooms", {}, { timeoutMs: 20 });
      const frame = await link.frame();
      await assert.rejects(call, { code: "DEADLINE_EXCEEDED", reason: "TIMEOUT", sent: true });
      link.ack(frame, { late: true });
      const other = mine.list("rooms");
      link.ack(await link.frame(), { rooms: [] });
      assert.deepEqual(await other, { rooms: [] });
    });

    test("a call can be given up by a signal, before and after it is sent", async () => {
      const { client: mine, link } = await connected();
      const control = new AbortController();
      const call = mine.list("rooms", {}, { signal: control.signal });
      await link.frame();
      control.abort(new Error("enough"));
      await assert.rejects(call, /enough/);
      await assert.rejects(mine.list("rooms", {}, { signal: control.signal }), /enough/);
      assert.equal(link.pending, 0);
    });

    test("a message to receivers whose type is a command is refused, for it would be obeyed and told to nobody", async () => {
      const { client: mine, link } = await connected();
      assert.equal(COMMANDS.length, 14);
      for (const type of COMMANDS) {
        const { reason, violations, sent } = await mine.send(type, {}, { to: { all: true } }).catch((error) => error);
        assert.deepEqual([reason, violations[0].field, sent], ["INVALID_FIELD", "to", false], type);
      }
      const sent = mine.send("joined", {}, { to: { all: true } });
      link.ack(await link.frame(), { message_id: "m" });
      await sent;
    });

    test("a frame larger than the hub takes is not sent", async () => {
      hub.started.max_frame_bytes = 100;
      const { client: mine, link } = await connected();
      await assert.rejects(mine.send("chat", { message: "é".repeat(50), room: "r" }), { reason: "TOO_LARGE" });
      const small = mine.send("chat", { message: "e".repeat(30), room: "r" });
      link.ack(await link.frame());
      await small;
    });

    test("calls go out no faster than the hub takes frames, and where it stood comes first", async () => {
      hub.started.max_frames_per_second = 10;
      const { client: mine, link } = await connected();
      const joining = mine.room("r").join();
      link.ack(await link.frame(), { room: "r" });
      await joining;
      link.socket.close(4000);
      await next(mine, "close");
      const calls = Array.from({ length: 14 }, (_, number) => mine.send("chat", { number, room: "r" }));
      const second = await hub.open();
      assert.equal((await second.frame()).type, "join");
      const began = performance.now();
      const arrived = [];
      for (const _ of calls) {
        const frame = await second.frame();
        arrived.push([frame.data.number, performance.now() - began]);
        second.ack(frame);
      }
      await Promise.all(calls);
      assert.deepEqual(arrived.map(([number]) => number), calls.map((_, number) => number));
      // Nine at once with the join, six more at nine a second.
      assert.ok(arrived[13][1] - arrived[7][1] > 400, `the last came ${arrived[13][1] - arrived[7][1]} ms after the first`);
    });

    test("the token function is asked for each connection and before a token expires", async () => {
      const asked = [];
      const { client: mine, link } = await connected({
        token: async ({ reason }) => {
          asked.push(reason);
          return `token${asked.length}`;
        },
      });
      assert.deepEqual(link.offered, ["bearer", "token1"]);
      assert.equal(link.protocol, "bearer");
      link.send({ type: "system", data: { event: "token_expiring", seconds: 60 } });
      const frame = await link.frame();
      assert.deepEqual([frame.type, frame.data], ["refresh", { token: "token2" }]);
      link.ack(frame, {});
      link.socket.close(4002);
      await next(mine, "close");
      assert.deepEqual((await hub.open()).offered, ["bearer", "token3"]);
      assert.deepEqual(asked, ["connect", "expiring", "connect"]);
    });

    test("a token function that fails is asked again after a while", async () => {
      let failures = 0;
      const mine = client({
        token: () => {
          if (++failures < 3) throw new Error("the issuer is away");
          return "token";
        },
      });
      const [closes, errors] = ["close", "error"].map((type) => Gathered.of(mine, type));
      const connecting = mine.connect();
      assert.deepEqual((await hub.open()).offered, ["bearer", "token"]);
      await connecting;
      assert.deepEqual(closes.map((close) => [close.reason, close.message]), Array(2).fill(["TOKEN_UNAVAILABLE", "Error: the issuer is away"]));
      assert.deepEqual([...errors], []);
    });

    test("a token that cannot be had for the live connection is told by error", async () => {
      const { client: mine, link } = await connected({
        token: ({ reason }) => {
          if (reason === "expiring") throw new Error("the issuer is away");
          return "token";
        },
      });
      const error = next(mine, "error");
      link.send({ type: "system", data: { event: "token_expiring", seconds: 60 } });
      const { reason, message } = await error;
      assert.deepEqual([reason, message], ["TOKEN_UNAVAILABLE", "Error: the issuer is away"]);
      assert.equal(mine.state, "open");
    });

    test("a token given as text is replaced by refresh", async () => {
      const { client: mine, link } = await connected({ token: "first" });
      const expiring = next(mine, "tokenexpiring");
      link.send({ type: "system", data: { event: "token_expiring", seconds: 60 } });
      assert.deepEqual(await expiring, { seconds: 60 });
      const refreshed = mine.refresh("second");
      link.ack(await link.frame(), { expire_time: "2030-01-01T00:00:00Z" });
      assert.equal((await refreshed).expire_time, "2030-01-01T00:00:00Z");
      link.socket.close(4002);
      assert.deepEqual((await hub.open()).offered, ["bearer", "second"]);
    });

    test("the hub's name for the connection is kept, and a given one is encoded in the path", async () => {
      const { client: mine, link } = await connected({ user: "ann" });
      assert.equal(link.path, "/ws/?user=ann");
      link.socket.close(4000);
      assert.equal((await hub.open()).path, "/ws/named");
      mine.close();
      client({ clientId: "a/b ü" }).connect();
      assert.equal((await hub.connection()).path, "/ws/a%2Fb%20%C3%BC");
    });

    test("a message that a replay brings again through another room is told once, and once in each room", async () => {
      const { client: mine, link } = await connected();
      const [one, two] = ["one", "two"].map((name) => mine.room(name));
      const all = Gathered.of(mine, "message");
      const [inOne, inTwo] = [one, two].map((room) => Gathered.of(room, "message"));
      const frame = (room, offset, id) => ({ type: "chat", data: {}, message_id: id, rooms: [{ room, epoch: "e", offset }] });
      for (const sent of [frame("one", 1, "m"), frame("two", 1, "m"), frame("two", 1, "m"), frame("two", 2, "n")]) link.send(sent);
      await inTwo.until(2);
      assert.deepEqual([all, inOne, inTwo].map((each) => each.map((message) => message.message_id)), [["m", "n"], ["m"], ["m", "n"]]);
    });

    test("a break in the midst of a replay is recovered from the last message received", async () => {
      const { client: mine, link } = await connected();
      const room = mine.room("r");
      const got = Gathered.of(room, "message");
      const joining = room.join({ recoverAfter: { epoch: "e", offset: 3 } });
      const join = await link.frame();
      assert.deepEqual(join.data, { room: "r", recover_after: { epoch: "e", offset: 3 } });
      const joined = { room: "r", position: { room: "r", epoch: "e", offset: 6 }, recovered: true, replayed: 3 };
      link.send({ type: "system", data: { event: "joined", ...joined } });
      link.send({ type: "chat", data: {}, message_id: "4", rooms: [{ room: "r", epoch: "e", offset: 4 }] });
      await got.until(1);
      link.socket.terminate();
      await joining;
      const again = await (await hub.open()).frame();
      assert.deepEqual(again.data.recover_after, { epoch: "e", offset: 4 });
    });

    test("what cannot be brought after the place that was asked for is a gap, and where none was asked for there is none", async () => {
      const { client: mine, link } = await connected();
      const position = { room: "r", epoch: "f", offset: 9 };
      for (const [name, recoverAfter, recovered] of [["a", { epoch: "e", offset: 3 }, false], ["b", { epoch: "f", offset: 9 }, true], ["c", undefined, false]]) {
        const room = mine.room(name);
        const joined = next(room, "joined");
        void room.join({ recoverAfter });
        await link.frame();
        link.send({ type: "system", data: { event: "joined", room: name, position, recovered, replayed: 0 } });
        assert.equal((await joined).gap, name === "a", name);
      }
    });

    test("a room that is left while it is being joined is not come back to", async () => {
      const { client: mine, link } = await connected();
      const room = mine.room("r");
      const joining = assert.rejects(room.join(), { reason: "LEFT" });
      const leaving = room.leave();
      await joining;
      const join = await link.frame();
      await link.frame();
      link.send({ type: "system", data: { event: "joined", room: "r", position: { room: "r" } } });
      link.ack(join, { room: "r" });
      const back = next(mine, "open");
      link.socket.close(4000);
      assert.equal(await leaving, false);
      const again = await hub.open();
      await back;
      const ping = mine.ping();
      const frame = await again.frame();
      assert.equal(frame.type, "heartbeat");
      again.send({ type: "heartbeat", id: frame.id, data: {} });
      await ping;
      assert.equal(room.joined, false);
    });

    test("a room that is left and joined at once is stood in, by the answer to the last join", async () => {
      const { client: mine, link } = await connected();
      const room = mine.room("r");
      const events = [];
      for (const type of ["joined", "left"]) room.addEventListener(type, () => events.push(type));
      const first = assert.rejects(room.join(), { reason: "LEFT" });
      const leaving = room.leave();
      const second = room.join();
      await first;
      const frames = [await link.frame(), await link.frame(), await link.frame()];
      assert.deepEqual(frames.map((frame) => frame.type), ["join", "leave", "join"]);
      link.refuse(frames[0], "PERMISSION_DENIED", "PERMISSION_DENIED");
      link.send({ type: "system", data: { event: "left", room: "r", removed: false } });
      link.ack(frames[1], { left: true });
      link.send({ type: "system", data: { event: "joined", room: "r", position: { room: "r" }, connections: 2 } });
      link.ack(frames[2], { room: "r", connections: 2 });
      assert.equal((await second).connections, 2);
      assert.equal(await leaving, true);
      assert.equal(room.joined, true);
      assert.deepEqual(events, ["left", "joined"]);
    });

    test("a subscription that was stopped tells nothing more, and may be started again", async () => {
      const { client: mine, link } = await connected();
      const subscription = mine.subscription({ group: "g" }, { name: "s" });
      const deliveries = Gathered.of(subscription, "delivery");
      const starting = subscription.start();
      link.ack(await link.frame(), { subscription: "s", member_id: "one" });
      await starting;
      const stopping = subscription.stop();
      link.send({ type: "event", subscription: "s", deliveries: [{ event: { sequence: "1" }, ack_id: "1", attempt: 1 }] });
      link.ack(await link.frame(), { subscription: "s" });
      await stopping;
      assert.equal(deliveries.length, 0);
      const again = subscription.start();
      link.ack(await link.frame(), { subscription: "s", member_id: "two" });
      assert.equal((await again).member_id, "two");
      link.send({ type: "event", subscription: "s", deliveries: [{ event: { sequence: "1" }, ack_id: "2", attempt: 1 }] });
      await deliveries.until(1);
      assert.equal(deliveries[0].ack_id, "2");
    });

    test("coming back to a room that is refused then is told, and what may pass is tried again", async () => {
      const { client: mine, link } = await connected();
      const room = mine.room("r");
      const joining = room.join();
      link.ack(await link.frame(), { room: "r" });
      await joining;
      link.socket.close(4000);
      const second = await hub.open();
      second.refuse(await second.frame(), "UNAVAILABLE", "OVERLOADED");
      const left = next(room, "left");
      second.refuse(await second.frame(), "PERMISSION_DENIED", "PERMISSION_DENIED");
      assert.equal((await left).error.reason, "PERMISSION_DENIED");
      assert.equal(room.joined, false);
      second.socket.close(4000);
      const third = await hub.open();
      const rooms = mine.list("rooms");
      assert.equal((await third.frame()).type, "list");
      third.socket.close(4500);
      await assert.rejects(rooms);
    });

    test("a subscription that the hub ends goes on where it was, or says that it is over", async () => {
      const { client: mine, link } = await connected();
      const subscription = mine.subscription({ start_at: "START_AT_EARLIEST", filter: { types: ["a"] } }, { name: "s" });
      const deliveries = Gathered.of(subscription, "delivery");
      const starting = subscription.start();
      const first = await link.frame();
      assert.deepEqual(first.data, { subscription: "s", start_at: "START_AT_EARLIEST", filter: { types: ["a"] } });
      link.ack(first, { subscription: "s", position: "0" });
      await starting;
      link.send({ type: "event", subscription: "s", deliveries: [{ event: { sequence: "9007199254740993" } }] });
      await deliveries.until(1);
      link.send({ type: "system", data: { event: "subscription_ended", subscription: "s", position: "1", code: "RESOURCE_EXHAUSTED", reason: "OVERLOADED" } });
      const again = await link.frame();
      assert.deepEqual(again.data, { subscription: "s", after_sequence: "9007199254740993", filter: { types: ["a"] } });
      const ended = next(subscription, "ended");
      link.refuse(again, "OUT_OF_RANGE", "SEQUENCE_OUT_OF_RANGE");
      assert.equal((await ended).error.reason, "SEQUENCE_OUT_OF_RANGE");
      assert.equal(subscription.active, false);
    });

    test("closing ends everything at once", async () => {
      const { client: mine, link } = await connected();
      const call = mine.list("rooms");
      const closed = next(mine, "close");
      mine.close();
      await assert.rejects(call, { reason: "CLOSED" });
      const { reason, code } = await closed;
      assert.deepEqual([reason, code], ["CLOSED", 1000]);
      const [received] = await link.closed;
      assert.equal(received, 1000);
    });
  });
}

test("a name that an address cannot hold is refused", () => {
  for (const clientId of [".", ".."]) assert.throws(() => new Switchboard("ws://127.0.0.1:1", { clientId, WebSocket: PackageSocket }), /options\.clientId/);
  for (const clientId of ["...", ".a"]) new Switchboard("ws://127.0.0.1:1", { clientId, WebSocket: PackageSocket });
});

test("without a WebSocket the constructor says what to pass", () => {
  const original = globalThis.WebSocket;
  try {
    globalThis.WebSocket = undefined;
    assert.throws(() => new Switchboard("ws://127.0.0.1:1"), /options\.WebSocket/);
  } finally {
    globalThis.WebSocket = original;
  }
});
