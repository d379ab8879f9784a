// What the page asks its server. Every refusal becomes a Refusal with one line for a person.

const KEY = "tam-edge key";
let seat = "";

export class Refusal extends Error {
  constructor(status, message, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// A key that no header can carry is not the server's, and is not kept.
export function setKey(key) {
  if (/^[\x21-\x7e]+$/.test(key)) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export function setSeat(value) {
  seat = value;
}

export function hasSeat() {
  return seat !== "";
}

function headers(more) {
  const all = new Headers(more);
  const key = sessionStorage.getItem(KEY);
  if (key) all.set("Authorization", `Bearer ${key}`);
  if (seat) all.set("X-Seat", seat);
  return all;
}

// A reply with a good status. Throws Refusal, or what `options.signal` was aborted with.
export async function call(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, { ...options, headers: headers(options.headers), cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server cannot be reached: is it still running?");
  }
  if (reply.ok) return reply;
  let said = {};
  try {
    said = (await reply.json()).error ?? {};
  } catch {
    // not one of ours, as from a proxy
  }
  throw new Refusal(reply.status, said.message ?? `The server answered with status ${reply.status}.`, said.code ?? "");
}

// The seat is given up even while the page goes away.
export function leaveSeat() {
  if (!seat) return;
  const sent = headers();
  seat = "";
  fetch("api/camera", { method: "DELETE", headers: sent, keepalive: true }).catch(() => {});
}

// Server-sent events of a reply, as the JSON values they carry.
export async function* eventsOf(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, "The connection broke before the answer was complete: ask again.");
    }
    if (part.done) return;
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events) yield JSON.parse(event.slice("data: ".length));
  }
}
