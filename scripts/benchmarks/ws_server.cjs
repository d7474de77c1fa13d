// What Node's `ws` does when it sends a message to every client: `node ws_server.cjs PORT`.
// A client that sends a message has it sent to all others.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: false });
server.on("connection", (sender) => {
  sender.on("message", (data) => {
    const text = data.toString();
    for (const client of server.clients) {
      if (client !== sender) client.send(text);
    }
  });
});
