/** A real hub in a process of its own, on free ports. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** The command that starts a hub; scripts/test says it, and by default it is the one on PATH. */
const COMMAND = JSON.parse(process.env.HUB_COMMAND ?? '["python3", "-m", "switchboard_server"]');

export class Hub {
  #process;
  #output = "";

  /** @param {Record<string, string>} settings */
  constructor(settings = {}) {
    this.settings = { GRPC_PORT: "0", PORT: "0", ...settings };
  }

  /** Starts it, or starts it again over the same data and on the same port. */
  async start() {
    this.folder ??= await mkdtemp(join(tmpdir(), "switchboard-"));
    this.#process = spawn(COMMAND[0], COMMAND.slice(1), {
      cwd: this.folder,
      env: this.#environment(),
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process.stderr.on("data", (data) => { this.#output += data; });
    for await (const line of createInterface(this.#process.stdout)) {
      this.#output += `${line}\n`;
      const found = /health, metrics +https?:\/\/.*:(\d+)\//.exec(line);
      if (found) this.settings.PORT = found[1];
      if (line.startsWith("    grpcurl")) break;
    }
    if (this.settings.PORT === "0") throw new Error(`the hub did not start:\n${this.#output}`);
    this.#process.stdout.resume();
    this.url = `ws://127.0.0.1:${this.settings.PORT}`;
    return this;
  }

  #environment() {
    const inherited = Object.entries(process.env).filter(([name]) => !/^(SWITCHBOARD_|JWT_)/.test(name));
    return { ...Object.fromEntries(inherited), ...this.settings, SWITCHBOARD_DATA_DIR: this.folder };
  }

  /** Ends it, at once and without a word unless told otherwise. */
  async kill(signal = "SIGKILL") {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const exited = once(this.#process, "exit");
    this.#process.kill(signal);
    await exited;
  }

  async remove() {
    await this.kill();
    await rm(this.folder, { recursive: true });
    if (this.#output.includes("Traceback")) throw new Error(this.#output);
  }

  /**
   * A token that the hub takes.
   *
   * @param {string} subject
   * @param {...string} args More arguments of the command.
   */
  async token(subject, ...args) {
    const made = spawn(COMMAND[0], [...COMMAND.slice(1), "token", "--subject", subject, ...args], {
      cwd: this.folder,
      env: this.#environment(),
      stdio: ["ignore", "pipe", "inherit"],
    });
    let token = "";
    for await (const data of made.stdout) token += data;
    if (!token) throw new Error("there is no token");
    return token.trim();
  }
}
