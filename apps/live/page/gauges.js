// The session at a glance: a status line, gauges, and what happened to it.

import { call } from "./calls.js";
import { bar, clock, duration, element, milliseconds, size } from "./words.js";

const EVERY_MS = 1000;
const EVENTS_SHOWN = 20;
const STATES = {
  live: "Live",
  reconnecting: "Source lost, connecting again",
  ended: "The source is over",
  failed: "Failed",
  closed: "Closed",
};

const line = document.getElementById("session");
const list = document.getElementById("events");
const bars = {
  memory: bar("Memory", { meter: true }),
  frames: bar("Looked at", { meter: true }),
  looking: bar("Looking", { meter: true }),
  kept: bar("Kept", { meter: true }),
};
document.getElementById("gauges").append(...Object.values(bars).map((one) => one.row));

let heard = 0;
let started = 0;

export function clearSession(text = "") {
  heard = 0;
  line.className = "";
  say(text);
  list.replaceChildren();
  document.getElementById("events-details").hidden = true;
  for (const one of Object.values(bars)) one.set(0, "");
}

// Look again and again while `wanted()`; `refused` hears why it was not possible, null when it is again.
export async function watchSession(wanted, refused) {
  for (;;) {
    if (wanted()) {
      try {
        show(await (await call(`api/status?after=${heard}`)).json());
        refused(null);
      } catch (error) {
        refused(error);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

// Only what has changed, or screen readers would read the same every second.
function say(text) {
  if (line.textContent !== text) line.textContent = text;
}

function show(status) {
  if (status.state === "starting") {
    line.className = "away";
    say("Starting");
    return;
  }
  if (status.started_seconds !== started) {
    started = status.started_seconds; // another session: its events count from 1
    heard = 0;
    list.replaceChildren();
    status.events = [];
  }
  line.className = status.state === "live" ? "live" : "away";
  const state = STATES[status.state] ?? status.state;
  const waiting = status.questions_waiting ? `. Questions waiting: ${status.questions_waiting}` : "";
  say(`${state}: ${(status.state !== "live" && status.problem) || status.source}${waiting}`);
  const limit = status.memory_limit_bytes;
  bars.memory.set(status.resident_bytes / limit, `${size(status.resident_bytes)} of ${size(limit)}`);
  const rates = `${status.seen_fps.toFixed(1)} of ${status.read_fps.toFixed(1)} frames/s`;
  bars.frames.set(status.seen_fps / Math.max(status.read_fps, 1e-9), rates);
  bars.looking.set((status.look_ms * status.seen_fps) / 1000, `${milliseconds(status.look_ms)} a frame`);
  const kept = status.kept_from_seconds === null ? 0 : status.newest_seconds - status.kept_from_seconds;
  const frames = `${duration(kept)}, ${status.frames_kept} frames`;
  bars.kept.set(kept / status.horizon_seconds, frames);
  for (const event of status.events) happened(event);
}

function happened(event) {
  heard = event.number;
  const item = element("li");
  item.append(element("time", "", clock(event.time_seconds)), ` ${event.text}`);
  list.prepend(item);
  while (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
  document.getElementById("events-details").hidden = false;
}
