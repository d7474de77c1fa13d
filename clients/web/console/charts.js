/**
 * Health and metrics: polls `/health` and `/metrics`, and draws the last minutes as small charts.
 *
 * @module
 */

import { byId, compact, duration, make, setText } from "./dom.js";

const POLL_MS = 2000;
const POINTS = 60;
const WIDTH = 180;
const HEIGHT = 36;
const SVG = "http://www.w3.org/2000/svg";

/** @typedef {Map<string, number>} Sample Sums over labels, by the name of the metric. */

/**
 * What the page wants to know of `/health`.
 *
 * @typedef {{ services: Record<string, string>, grpcPort?: number }} Health Status of each gRPC service; nothing where the hub is away.
 */

/**
 * @typedef {object} Chart
 * @property {string} title
 * @property {string} unit
 * @property {(now: Sample, rate: (name: string) => number | null) => number | null | undefined} value Null: there is none (yet).
 */

/** @type {Chart[]} */
const CHARTS = [
  { title: "Published", unit: "/s", value: (_, rate) => rate("switchboard_events_published_total") },
  { title: "Delivered", unit: "/s", value: (_, rate) => rate("switchboard_events_delivered_total") },
  { title: "In the log", unit: "", value: (now) => now.get("switchboard_log_events") },
  { title: "Subscriptions", unit: "", value: (now) => now.get("switchboard_subscribers") },
  { title: "Connections", unit: "", value: (now) => now.get("switchboard_connections") },
  { title: "Sent out", unit: "/s", value: (_, rate) => rate("switchboard_messages_delivered_total") },
  { title: "gRPC calls", unit: "/s", value: (_, rate) => rate("switchboard_rpc_total") },
  { title: "CPU", unit: " %", value: (_, rate) => percent(rate("process_cpu_seconds_total")) },
  { title: "Memory", unit: "B", value: (now) => now.get("process_resident_memory_bytes") },
];

/**
 * @param {number | null} share
 * @returns {number | null}
 */
function percent(share) {
  return share === null ? null : share * 100;
}

/**
 * Reads Prometheus' text format.
 *
 * @param {string} text
 * @returns {Sample}
 */
export function parseMetrics(text) {
  /** @type {Sample} */
  const sums = new Map();
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)/.exec(line);
    if (found) sums.set(found[1], (sums.get(found[1]) ?? 0) + Number(found[2]));
  }
  return sums;
}

/** A line that grows to the right, with its latest value. */
class Sparkline {
  /** @type {number[]} */
  #values = [];
  #line = document.createElementNS(SVG, "polyline");
  #area = document.createElementNS(SVG, "polygon");
  #value = make("span", { class: "value" });
  #chart;

  /** @param {Chart} chart */
  constructor(chart) {
    this.#chart = chart;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(this.#area, this.#line);
    this.element = make("li", { hidden: "" }, make("span", { class: "title" }, chart.title), this.#value, svg);
  }

  /** @param {number} value */
  add(value) {
    this.element.hidden = false;
    this.#values = [...this.#values, value].slice(-POINTS);
    setText(this.#value, `${compact(value)}${this.#chart.unit}`);
    const top = Math.max(...this.#values);
    const bottom = Math.min(0, ...this.#values);
    const span = top - bottom || 1;
    const step = WIDTH / (POINTS - 1);
    const left = WIDTH - (this.#values.length - 1) * step;
    const points = this.#values.map((each, index) => `${(left + index * step).toFixed(1)},${(HEIGHT - 2 - ((each - bottom) / span) * (HEIGHT - 4)).toFixed(1)}`);
    this.#line.setAttribute("points", points.join(" "));
    this.#area.setAttribute("points", `${left},${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`);
  }
}

/**
 * Shows health and metrics from now on, while the page can be seen.
 *
 * @param {(health: Health) => void} onHealth Is told what `/health` says, each time.
 */
export function watch(onHealth) {
  const lines = CHARTS.map((chart) => new Sparkline(chart));
  byId("charts", HTMLUListElement).append(...lines.map((line) => line.element));
  /** @type {{ at: number, sample: Sample } | null} */
  let before = null;

  const poll = async () => {
    if (!document.hidden) {
      onHealth(await showHealth());
      before = await showMetrics(lines, before);
    }
    setTimeout(poll, POLL_MS);
  };
  void poll();
}

/** @returns {Promise<Health>} */
async function showHealth() {
  const badge = byId("health", HTMLElement);
  try {
    // Not serving is 503, with the same content.
    const health = await (await fetch("health")).json();
    badge.dataset.state = health.status === "SERVING" ? "good" : "bad";
    setText(byId("health-text", HTMLElement), health.status === "SERVING" ? "Serving" : "Not serving");
    setText(byId("facts", HTMLElement), `v${health.version} · up ${duration(health.uptime_seconds)} · log ${health.log.backend}`);
    return { services: health.services, grpcPort: health.grpc_port };
  } catch {
    // Whatever it is, the page says that it knows nothing, and asks again.
    badge.dataset.state = "idle";
    setText(byId("health-text", HTMLElement), "Health unknown");
    return { services: {} };
  }
}

/**
 * @param {Sparkline[]} lines
 * @param {{ at: number, sample: Sample } | null} before
 * @returns {Promise<{ at: number, sample: Sample } | null>}
 */
async function showMetrics(lines, before) {
  try {
    const answer = await fetch("metrics");
    if (!answer.ok) return null;
    const sample = parseMetrics(await answer.text());
    const at = performance.now();
    /** @param {string} name */
    const rate = (name) => {
      const [now, then] = [sample.get(name), before?.sample.get(name)];
      if (!before || now === undefined) return null;
      // A counter that fell began anew: the hub was restarted.
      return (Math.max(0, now - (then ?? 0)) / (at - before.at)) * 1000;
    };
    CHARTS.forEach((chart, index) => {
      const value = chart.value(sample, rate);
      if (value !== null && value !== undefined) lines[index].add(value);
    });
    return { at, sample };
  } catch {
    // The hub is away; the header says so.
    return null;
  }
}
