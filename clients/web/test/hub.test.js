/** The SDK against a real hub, which is killed and started again. */

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { WebSocket as PackageSocket } from "ws";

import { Switchboard } from "../switchboard.js";
import { Hub } from "./hub.js";
import { Gathered, next } from "./scripted.js";

const FAST = { minBackoffMs: 20, maxBackoffMs: 200 };
const SOCKETS = { global: globalThis.WebSocket, ws: PackageSocket };

/** @type {Switchboard[]} */
const clients = [];

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
});

function client(hub, options = {}) {
  const made = new Switchboard(hub.url, { ...FAST, ...options });
  clients.push(made);
  return made;
}

const texts = (messages) => messages.map((message) => message.data.message);
const numbers = (deliveries) => deliveries.map(({ event }) => event.data.number);

for (const [name, WebSocket] of Object.entries(SOCKETS)) {
  describe(`a hub that asks for no token, with the WebSocket of ${name}`, { timeout: 60_000 }, () => {
    /** @type {Hub} */
    let hub;
    const connect = async (options = {}) => {
      const made = client(hub, { WebSocket, ...options });
      await made.connect();
      return made;
    };

    before(async () => {
      hub = await new Hub({ SWITCHBOARD_ROOM_HISTORY: "kept-*=100/60s" }).start();
    });
    after(() => hub.remove());

    test("connecting tells the name of the connection", async () => {
      const named = await connect({ clientId: "ann's phone", user: "ann" });
      assert.deepEqual([named.state, named.clientId, named.user], ["open", "ann's phone", "ann"]);
      const unnamed = await connect();
      assert.ok(unnamed.clientId);
      assert.ok((await named.ping()) < 5000);
    });

    test("what is said in a room reaches everybody in it, once and in order", async () => {
      const [ann, ben] = [await connect({ clientId: "ann" }), await connect({ clientId: "ben" })];
      const [annHears, benHears] = [ann, ben].map((each) => Gathered.of(each.room("lobby"), "message"));
      await Promise.all([ann.room("lobby").join(), ben.room("lobby").join()]);
      for (let count = 0; count < 5; count++) {
        const sent = await (count % 2 ? ann : ben).room("lobby").send("chat", { message: `${count}` });
        assert.equal(sent.connections, 2);
      }
      for (const heard of [annHears, benHears]) {
        await heard.until(5);
        assert.deepEqual(texts(heard), ["0", "1", "2", "3", "4"]);
      }
      assert.equal(annHears[0].sender_client_id, "ben");
      await ben.room("lobby").leave();
      assert.equal((await ann.room("lobby").send("chat", { message: "alone" })).connections, 1);
    });

    test("sending to a room is standing in it", async () => {
      const ann = await connect();
      const joined = next(ann.room("new"), "joined");
      await ann.room("new").send("chat", { message: "hi" });
      assert.equal((await joined).resumed, false);
      assert.equal(ann.room("new").joined, true);
    });

    test("a message can go to users and clients", async () => {
      const [ann, ben] = [await connect({ clientId: "a1", user: "anna" }), await connect({ clientId: "b1" })];
      const heard = Gathered.of(ann, "message");
      await ben.send("notification", { title: "one" }, { to: { users: ["anna"] } });
      await ben.send("notification", { title: "two" }, { to: { clients: ["a1", "b1"], exclude_clients: ["b1"] } });
      await heard.until(2);
      assert.deepEqual(heard.map((message) => message.data.title), ["one", "two"]);
    });

    test("presence and its notices tell who is in a room", async () => {
      const ann = await connect({ clientId: "p1", user: "ann" });
      const notices = Gathered.of(ann.room("hall"), "presence");
      await ann.room("hall").join({ presenceNotices: true });
      const ben = await connect({ clientId: "p2", user: "ben" });
      await ben.room("hall").join();
      await notices.until(1);
      assert.deepEqual(notices[0].joined.map((member) => member.client_id), ["p2"]);
      const { presences } = await ann.room("hall").presence();
      assert.deepEqual(presences.map((each) => each.user), ["ann", "ben"]);
      ben.close();
      await notices.until(2);
      assert.deepEqual(notices[1].left.map((member) => member.client_id), ["p2"]);
    });

    test("notices can be asked for, and no longer, where the connection stands already", async () => {
      const ann = await connect({ clientId: "p3" });
      const ben = await connect({ clientId: "p4" });
      const room = ann.room("lobby");
      const notices = Gathered.of(room, "presence");
      await room.send("chat", {});
      assert.equal((await room.join({ presenceNotices: true })).already_joined, true);
      await room.join();
      await ben.room("lobby").join();
      await notices.until(1);
      await room.join({ presenceNotices: false });
      await ben.room("lobby").leave();
      await ann.ping();
      assert.equal(notices.length, 1);
    });

    test("a room with a history brings what was missed, and only that", async () => {
      const [ann, ben] = [await connect({ clientId: "r1" }), await connect({ clientId: "r2" })];
      const room = ann.room("kept-1");
      const heard = Gathered.of(room, "message");
      await room.join();
      await ben.room("kept-1").send("chat", { message: "before" });
      await heard.until(1);
      const place = room.position;
      ann.close();
      for (const message of ["one", "two"]) await ben.room("kept-1").send("chat", { message });
      const again = await connect({ clientId: "r1" });
      const later = Gathered.of(again.room("kept-1"), "message");
      const joined = await again.room("kept-1").join({ recoverAfter: place });
      assert.deepEqual([joined.recovered, joined.replayed], [true, 2]);
      await later.until(2);
      assert.deepEqual(texts(later), ["one", "two"]);
    });

    test("a connection that the hub cuts comes back by itself to its rooms and subscriptions", async () => {
      const [ann, ben] = [await connect({ clientId: "c1" }), await connect({ clientId: "c2" })];
      const room = ann.room("kept-2");
      const heard = Gathered.of(room, "message");
      const subscription = ann.subscription({ filter: { types: ["cut.*"] } });
      const delivered = Gathered.of(subscription, "delivery");
      await Promise.all([room.join(), subscription.start()]);
      const joins = Gathered.of(room, "joined");
      for (let round = 0; round < 5; round++) {
        const closed = next(ann, "close");
        const back = next(ann, "open");
        // Another connection of the same name takes the place of this one for good, so the hub has to be asked otherwise.
        ann._abandonLink("cut by the test");
        await closed;
        await ben.room("kept-2").send("chat", { message: `${round}` });
        await ben.publish({ type: "cut.event", source_service: "test", data: { number: round } });
        await back;
      }
      await Promise.all([heard.until(5), delivered.until(5)]);
      assert.deepEqual(texts(heard), ["0", "1", "2", "3", "4"]);
      assert.deepEqual(numbers(delivered), [0, 1, 2, 3, 4]);
      assert.ok(joins.every(({ resumed, gap, recovered }) => resumed && !gap && recovered));
    });

    test("events are published, followed, listed and refused with a reason", async () => {
      const ann = await connect();
      const subscription = ann.subscription({ filter: { types: ["order.*"] } });
      const delivered = Gathered.of(subscription, "delivery");
      await subscription.start();
      const first = await ann.publish({ id: "o1", type: "order.created", source_service: "shop", data: { number: 1 } });
      const again = await ann.publish({ id: "o1", type: "order.created", source_service: "shop", data: { number: 1 } });
      assert.equal(again.sequence, first.sequence);
      assert.equal(again.duplicate, true);
      const { results } = await ann.publishBatch([
        { type: "order.paid", source_service: "shop", data: { number: 2 } },
        { type: "", source_service: "shop" },
        { type: "other", source_service: "shop" },
      ]);
      assert.equal(results.length, 3);
      await delivered.until(2);
      assert.deepEqual(numbers(delivered), [1, 2]);
      assert.equal(subscription.position, delivered[1].event.sequence);
      const { events } = await ann.list("events", { filter: { types: ["order.*"] } });
      assert.deepEqual(events.map((event) => event.data.number), [2, 1]);
      await assert.rejects(ann.publish({ type: "order.created" }), (error) => error.code === "INVALID_ARGUMENT" && error.violations.length > 0);
      await subscription.stop();
      await ann.publish({ type: "order.late", source_service: "shop" });
      assert.equal(delivered.length, 2);
    });

    test("members of a group share events, and what one leaves unacknowledged goes to another", async () => {
      const [ann, ben] = [await connect(), await connect()];
      const request = { filter: { types: ["job"] }, group: `jobs-${name}`, retry_policy: { min_backoff: "0s" } };
      const subscriptions = [ann, ben].map((each) => each.subscription(request));
      const [annGets, benGets] = subscriptions.map((each) => Gathered.of(each, "delivery"));
      await Promise.all(subscriptions.map((each) => each.start()));
      assert.equal(subscriptions[0].position, null);
      for (let number = 0; number < 10; number++) await ben.publish({ type: "job", source_service: "test", data: { number } });
      await Promise.all([annGets.until(1), benGets.until(1)]);
      const kept = annGets.length;
      await subscriptions[0].stop();
      await benGets.until(10);
      assert.deepEqual(numbers(benGets).sort((one, two) => one - two), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
      assert.ok(kept > 0);
      const { results } = await subscriptions[1].acknowledge(benGets);
      assert.deepEqual(new Set(results.map(({ outcome }) => outcome)), new Set(["SETTLE_OUTCOME_OK"]));
    });

    test("the history of a room can be read, from a place on too", async () => {
      const ann = await connect();
      const room = ann.room(`kept-history-${name}`);
      await room.join();
      const [first] = (await room.send("chat", { message: "one" })).positions;
      await room.send("chat", { message: "two" });
      const all = await room.history();
      assert.deepEqual([texts(all.messages), all.messages[0].type, all.contiguous], [["one", "two"], "chat", false]);
      assert.deepEqual(all.messages[0].rooms, [first]);
      const rest = await room.history({ after: first });
      assert.deepEqual([texts(rest.messages), rest.contiguous], [["two"], true]);
    });

    test("another page with the same name ends this one for good", async () => {
      const first = await connect({ clientId: "same" });
      const closed = next(first, "close");
      await connect({ clientId: "same" });
      const { reason, willReconnect } = await closed;
      assert.deepEqual([reason, willReconnect], ["CONNECTION_REPLACED", false]);
    });
  });
}

describe("a hub that is killed under load and started again", { timeout: 120_000 }, () => {
  for (const signal of ["SIGKILL", "SIGTERM"]) {
    test(`after ${signal}, twice, events come once, in order, and none is missing`, async () => {
      const hub = await new Hub().start();
      try {
        const publisher = client(hub, { timeoutMs: 60_000 });
        const subscriber = client(hub);
        await Promise.all([publisher.connect(), subscriber.connect()]);
        const subscription = subscriber.subscription({ filter: { types: ["load"] } });
        const delivered = Gathered.of(subscription, "delivery");
        await subscription.start();
        const [opens, closes, errors] = ["open", "close", "error"].map((type) => Gathered.of(subscriber, type));
        const publishing = (async () => {
          for (let number = 0; number < 300; number++) {
            // With an id it is sent again when its answer was lost, and stored once.
            await publisher.publish({ id: `${number}`, type: "load", source_service: "test", data: { number } });
          }
        })();
        for (const count of [60, 160]) {
          await delivered.until(count);
          await hub.kill(signal);
          await hub.start();
        }
        await publishing;
        await delivered.until(300);
        assert.deepEqual(numbers(delivered), Array.from({ length: 300 }, (_, number) => number));
        assert.equal(opens.length, 2);
        const told = signal === "SIGTERM" ? "SHUTTING_DOWN: the hub shuts down; connect again in a moment" : "CONNECTION_LOST: ";
        assert.equal(`${closes[0].reason}: ${closes[0].message}`, told);
        assert.deepEqual([...errors], []);
      } finally {
        await hub.remove();
      }
    });
  }

  test("rooms are joined again, with a word that messages may be missing", async () => {
    const hub = await new Hub({ SWITCHBOARD_ROOM_HISTORY: "kept-*=100/60s" }).start();
    try {
      const [ann, ben] = [client(hub, { clientId: "ann" }), client(hub, { clientId: "ben" })];
      await Promise.all([ann.connect(), ben.connect()]);
      const rooms = ["plain", "kept-1"];
      const heard = rooms.map((name) => Gathered.of(ann.room(name), "message"));
      await Promise.all(rooms.map((name) => ann.room(name).join()));
      const joins = rooms.map((name) => Gathered.of(ann.room(name), "joined"));
      for (const name of rooms) await ben.room(name).send("chat", { message: "before" });
      await Promise.all(heard.map((each) => each.until(1)));
      await hub.kill();
      await hub.start();
      await Promise.all(joins.map((each) => each.until(1)));
      for (const [joined] of joins) assert.deepEqual([joined.resumed, joined.gap], [true, true]);
      for (const name of rooms) await ben.room(name).send("chat", { message: "after" });
      await Promise.all(heard.map((each) => each.until(2)));
      for (const each of heard) assert.deepEqual(texts(each), ["before", "after"]);
    } finally {
      await hub.remove();
    }
  });
});

describe("a hub that asks for tokens", { timeout: 60_000 }, () => {
  /** @type {Hub} */
  let hub;

  before(async () => {
    hub = await new Hub({ JWT_SECRET_KEY: "a secret of the tests, long enough for HS256" }).start();
  });
  after(() => hub.remove());

  const token = (...permissions) => hub.token("ann", ...permissions.flatMap((each) => ["--permission", each]));

  test("takes a good one, and names its user", async () => {
    const ann = client(hub, { token: () => token("rooms.join", "messaging.broadcast:room-*") });
    await ann.connect();
    assert.equal(ann.user, "ann");
    await ann.room("room-1").send("chat", { message: "hi" });
    await assert.rejects(ann.publish({ type: "a", source_service: "b" }), { code: "PERMISSION_DENIED", reason: "PERMISSION_DENIED" });
    await assert.rejects(ann.send("chat", {}, { to: { all: true } }), { reason: "PERMISSION_DENIED" });
    assert.ok((await ann.refresh(await token("rooms.join", "events.publish"))).expire_time);
    await ann.publish({ type: "a", source_service: "b" });
  });

  test("refuses a bad one for good", async () => {
    const nobody = client(hub, { token: "x.y.z" });
    await assert.rejects(nobody.connect(), (error) => error.close.reason === "TOKEN_INVALID");
    assert.equal(nobody.state, "closed");
  });

  test("refuses one without the permission for good", async () => {
    const nobody = client(hub, { token: await token("events.publish") });
    await assert.rejects(nobody.connect(), (error) => error.close.reason === "PERMISSION_DENIED");
  });
});
