/**
 * Commands that say what to do where there is nothing to see yet, each with a button that copies it.
 *
 * @module
 */

import { byId, copyButton, make, setText } from "./dom.js";

const host = location.hostname || "127.0.0.1";
const call = `grpcurl ${location.protocol === "https:" ? "" : "-plaintext "}`;

const COMMANDS = {
  "publish-command": `${call}-d '{"event": {"type": "order.created", "source_service": "shop", "data": {"order": 1}}}' ${host}:GRPC_PORT switchboard.v1.EventService/Publish`,
  "register-command": `${call}-d '{"instance": {"service_name": "users", "service_url": "http://127.0.0.1:8010", "version": "1.4.2"}}' ${host}:GRPC_PORT switchboard.v1.RegistryService/Register`,
  "room-command": 'import { Switchboard } from "/switchboard.js";\nconst hub = new Switchboard("/");\nawait hub.connect();\nawait hub.room("general").join();',
  "token-command": "python -m switchboard_server token --subject me --permission rooms.join --permission messaging.view --permission services.view --permission events.view --permission events.subscribe --permission events.publish --permission messaging.broadcast",
};

/** @type {(() => void)[]} */
const updates = [];
let grpcPort = "50051";

/** Shows them. */
export function start() {
  for (const [id, command] of Object.entries(COMMANDS)) {
    const text = () => command.replace("GRPC_PORT", grpcPort);
    const shown = make("pre", { tabindex: "0" }, text());
    updates.push(() => setText(shown, text()));
    byId(id, HTMLElement).append(shown, copyButton(text));
  }
}

/**
 * Names the port where the hub takes gRPC.
 *
 * @param {number} port
 */
export function setGrpcPort(port) {
  grpcPort = String(port);
  for (const update of updates) update();
}
