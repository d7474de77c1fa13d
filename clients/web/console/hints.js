/**
 * Commands that say what to do where there is nothing to see yet, each with a button that copies it.
 *
 * @module
 */

import { byId, copyButton, make } from "./dom.js";

const host = location.hostname || "127.0.0.1";
// The page cannot know the port of gRPC; this is the one by default.
const call = `grpcurl ${location.protocol === "https:" ? "" : "-plaintext "}`;

const COMMANDS = {
  "publish-command": `${call}-d '{"event": {"type": "order.created", "source_service": "shop", "data": {"order": 1}}}' ${host}:50051 switchboard.v1.EventService/Publish`,
  "register-command": `${call}-d '{"instance": {"service_name": "users", "service_url": "http://127.0.0.1:8010", "version": "1.4.2"}}' ${host}:50051 switchboard.v1.RegistryService/Register`,
  "room-command": 'import { Switchboard } from "/switchboard.js";\nconst hub = new Switchboard("/");\nawait hub.connect();\nawait hub.room("general").join();',
  "token-command": "python -m switchboard_server token --subject me --permission rooms.join --permission messaging.view --permission services.view --permission events.view --permission events.subscribe --permission events.publish --permission messaging.broadcast",
};

/** Shows them. */
export function start() {
  for (const [id, command] of Object.entries(COMMANDS)) byId(id, HTMLElement).append(make("pre", { tabindex: "0" }, command), copyButton(() => command));
}
