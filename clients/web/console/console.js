/**
 * The console: a page that shows what a hub does, made with the SDK.
 *
 * @module
 */

import { Switchboard, SwitchboardError } from "../switchboard.js";
import { watch } from "./charts.js";
import { byId, counted, setText } from "./dom.js";
import * as hints from "./hints.js";
import * as keys from "./keys.js";
import { Panels } from "./panels.js";
import * as sending from "./sending.js";
import { Tail, restoreFilter } from "./tail.js";

const TOKEN_KEY = "switchboard.token";
const THEME_KEY = "switchboard.theme";
const THEMES = ["auto", "light", "dark"];

/** @type {{ hub: Switchboard, panels: Panels, end: AbortController } | null} */
let session = null;
/** @type {Record<string, string>} */
let services = {};

// --- errors ---------------------------------------------------------------------------------------

/**
 * Shows what went wrong until it is dismissed.
 *
 * @param {string} what
 * @param {unknown} error
 */
function report(what, error) {
  let text = error instanceof Error ? error.message : String(error);
  if (error instanceof SwitchboardError) {
    text = [text, ...error.violations.map(({ field, description }) => `${field}: ${description}`)].join(" ") + ` (${error.reason})`;
  }
  setText(byId("alert-text", HTMLElement), `${what}: ${text}`);
  byId("alert", HTMLElement).hidden = false;
}

byId("alert-close", HTMLButtonElement).addEventListener("click", () => {
  byId("alert", HTMLElement).hidden = true;
});

// --- colours --------------------------------------------------------------------------------------

/** @param {string} theme */
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = byId("theme-button", HTMLButtonElement);
  setText(button, theme[0].toUpperCase() + theme.slice(1));
  button.setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system" : theme}`);
}

setTheme(THEMES.find((theme) => theme === localStorage.getItem(THEME_KEY)) ?? "auto");
byId("theme-button", HTMLButtonElement).addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
  localStorage.setItem(THEME_KEY, theme);
  setTheme(theme);
});

// --- token ----------------------------------------------------------------------------------------

/**
 * Asks whether the hub would take us: without a token a browser learns that too late, and without the reason.
 *
 * @returns {Promise<boolean>} The hub wants a token, or another one.
 */
async function tokenWanted() {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const answer = await fetch("ws/info", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  return answer.status === 401;
}

/** @param {string} why */
function askForToken(why) {
  setText(byId("token-why", HTMLElement), why);
  const dialog = byId("token-dialog", HTMLDialogElement);
  // What somebody is writing there stays.
  if (dialog.open) return;
  byId("token", HTMLInputElement).value = sessionStorage.getItem(TOKEN_KEY) ?? "";
  dialog.showModal();
}

byId("token-button", HTMLButtonElement).addEventListener("click", () => askForToken("Connect with another token. Leave it empty for a hub that asks for none."));
byId("token-cancel", HTMLButtonElement).addEventListener("click", () => byId("token-dialog", HTMLDialogElement).close());
byId("token-form", HTMLFormElement).addEventListener("submit", () => {
  const token = byId("token", HTMLInputElement).value.trim();
  if (token) sessionStorage.setItem(TOKEN_KEY, token);
  else sessionStorage.removeItem(TOKEN_KEY);
  byId("alert", HTMLElement).hidden = true;
  void begin();
});

// --- connection -----------------------------------------------------------------------------------

/**
 * @param {"idle" | "good" | "waiting" | "bad"} state
 * @param {string} text
 */
function showLink(state, text) {
  document.title = state === "good" ? "Switchboard" : `${text} · Switchboard`;
  byId("link", HTMLElement).dataset.state = state;
  setText(byId("link-text", HTMLElement), text);
}

/** Connects, with the token there is, and puts a new session in the place of the one before. */
async function begin() {
  session?.end.abort();
  session?.hub.close();
  session = null;
  try {
    if (await tokenWanted()) {
      showLink("bad", "Token wanted");
      askForToken(sessionStorage.getItem(TOKEN_KEY) ? "The hub does not take this token, or no longer." : "This hub asks for a token.");
      return;
    }
  } catch {
    // Not there: the connection waits for it.
  }
  const token = sessionStorage.getItem(TOKEN_KEY);
  const hub = new Switchboard(new URL(".", document.baseURI), { ...(token && { token }) });
  const end = new AbortController();
  const panels = new Panels(hub, report, end.signal);
  const tail = new Tail(hub, report, end.signal);
  session = { hub, panels, end };
  panels.withServices = keepsServices();
  showLink("waiting", "Connecting");
  hub.addEventListener("open", () => {
    showLink("good", `Connected as ${hub.user || hub.clientId}`);
    panels.refresh();
  }, { signal: end.signal });
  hub.addEventListener("close", ({ detail }) => ended(detail), { signal: end.signal });
  hub.addEventListener("error", ({ detail }) => report("The hub says", detail), { signal: end.signal });
  hub.addEventListener("dropped", ({ detail }) => report("This page reads too slowly", `${counted(detail.count, "message")} dropped`), { signal: end.signal });
  hub.addEventListener("tokenexpiring", () => askForToken("The token expires within a minute."), { signal: end.signal });
  try {
    await hub.connect();
    await tail.follow();
  } catch (error) {
    if (!end.signal.aborted) report("Connecting", error);
  }
}

/** @param {import("../switchboard.js").CloseReason & { willReconnect: boolean, delayMs: number }} close */
function ended(close) {
  const why = close.message || close.reason.toLowerCase().replaceAll("_", " ");
  if (close.reason === "TOKEN_EXPIRED") {
    // With the same one it would be told the same again.
    session?.hub.close();
    showLink("bad", "Token expired");
    askForToken("The token has expired.");
    return;
  }
  if (close.willReconnect) {
    showLink("waiting", `Reconnecting in ${(close.delayMs / 1000).toFixed(1)} s (${why})`);
    return;
  }
  showLink("bad", `Disconnected (${why})`);
  if (close.reason === "TOKEN_INVALID" || close.reason === "PERMISSION_DENIED") askForToken(`The hub refused the token: ${why}.`);
}

// --- start ----------------------------------------------------------------------------------------

byId("try-event", HTMLButtonElement).addEventListener("click", () => sending.write("event"));
hints.start();
keys.start();
sending.start(() => session?.hub, report);
restoreFilter();

function keepsServices() {
  return services["switchboard.v1.RegistryService"] === "SERVING";
}

watch((health) => {
  services = health.services;
  if (health.grpcPort) hints.setGrpcPort(health.grpcPort);
  if (session) session.panels.withServices = keepsServices();
});
void begin();
