// A stock @grpc/grpc-js client that dials xds:///: prints who answers, as xds_client.py does.
const { createRequire } = require("node:module");
const path = require("node:path");
const readline = require("node:readline");

const fromTests = createRequire(path.join(__dirname, "..", "package.json"));
const grpc = fromTests("@grpc/grpc-js");
fromTests("@grpc/grpc-js-xds").register();

const client = new grpc.Client(`xds:///${process.argv[2]}`, grpc.credentials.createInsecure());

function call() {
  return new Promise((answer) => {
    client.makeUnaryRequest(
      "/test.Who/Am",
      (bytes) => bytes,
      (bytes) => bytes.toString(),
      Buffer.alloc(0),
      { deadline: Date.now() + 5000 },
      (error, name) => answer(error ? grpc.status[error.code] : name),
    );
  });
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const answers = {};
    for (let number = 0; number < Number(line); number++) {
      const name = await call();
      answers[name] = (answers[name] ?? 0) + 1;
    }
    console.log(JSON.stringify(answers));
  }
}

main();
