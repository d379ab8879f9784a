// The conversation: a question goes out with those before it, and its answer is written as it comes.

import { call, eventsOf, Refusal } from "./calls.js";
import { evidenceOf } from "./evidence.js";
import { bar, clock, element, milliseconds } from "./words.js";

const MOST_HISTORY = 32;
const MOST_TURNS = 50; // older ones go, with their pictures
const STAGES = ["wait", "load", "inductor", "decode", "vision", "strategy", "prefill", "generate"];

const form = document.getElementById("ask");
const question = document.getElementById("question");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const talk = document.getElementById("talk");
const empty = document.getElementById("talk-empty");
const forget = document.getElementById("forget");
let history = [];
let running = null;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (text && running === null) ask(text, new FormData(form).get("last"));
});
stop.addEventListener("click", () => running?.abort());
forget.addEventListener("click", clearTalk);

export function clearTalk() {
  running?.abort();
  history = [];
  talk.replaceChildren();
  empty.hidden = false;
  forget.hidden = true;
}

async function ask(text, last) {
  const turn = newTurn(text, last);
  const abort = new AbortController();
  busy(abort);
  try {
    const body = JSON.stringify({ question: text, last: last || null, history });
    const headers = { "Content-Type": "application/json" };
    const reply = await call("api/ask", { method: "POST", body, headers, signal: abort.signal });
    let whole = null;
    for await (const event of eventsOf(reply)) {
      if (event.event === "plan") turn.plan(event.plan);
      else if (event.event === "text") turn.say(event.text);
      else if (event.event === "answer") whole = event;
      else throw new Refusal(200, event.error.message, event.error.code);
    }
    if (whole === null) throw new Refusal(0, "The connection broke before the answer was complete: ask again.");
    turn.end(whole);
    history = [...history, [text, whole.answer]].slice(-MOST_HISTORY);
  } catch (error) {
    turn.fail(abort.signal.aborted ? "Stopped." : error.message);
  } finally {
    busy(null);
  }
}

function busy(abort) {
  const wasStop = document.activeElement === stop;
  running = abort;
  send.hidden = abort !== null;
  stop.hidden = abort === null;
  if (abort === null && wasStop) question.focus(); // the button that had the focus is gone
  if (abort !== null) question.select();
}

function newTurn(text, last) {
  for (const older of talk.querySelectorAll("details[open]")) older.open = false;
  const turn = element("article", "turn card");
  turn.setAttribute("aria-busy", "true"); // read aloud once it is whole
  const answer = element("p", "answer");
  const how = element("details");
  how.open = true;
  how.append(element("summary", "", "How it was answered"));
  const about = last ? `the last ${last.replace(/(\d)([a-z])/, "$1 $2")}` : "all that is kept";
  turn.append(element("h3", "", text), element("p", "when", `${clock(Date.now() / 1000)}, about ${about}`), answer, how);
  talk.prepend(turn);
  while (talk.children.length > MOST_TURNS) talk.lastChild.remove();
  empty.hidden = true;
  forget.hidden = false;
  let planned = null;
  return {
    plan(plan) {
      planned?.remove();
      planned = how.appendChild(planOf(plan));
    },
    say(piece) {
      answer.textContent += piece;
    },
    end(whole) {
      answer.textContent = whole.answer || "(no text)";
      this.plan(whole.plan); // as it was looked at
      how.append(notesOf(whole), evidenceOf(whole), costsOf(whole));
      turn.setAttribute("aria-busy", "false");
    },
    fail(message) {
      const line = answer.textContent ? turn.insertBefore(element("p"), how) : answer;
      line.className = "answer none";
      line.textContent = message;
      if (planned === null) how.remove();
      turn.setAttribute("aria-busy", "false");
    },
  };
}

function planOf(plan) {
  const box = element("div", "reasons");
  box.append(element("p", "task", `${plan.task}, ${(100 * plan.confidence).toFixed(0)}% sure`));
  for (const reason of plan.reasons) box.append(element("p", "", reason));
  return box;
}

function notesOf(whole) {
  const list = element("ul", "notes");
  const given = whole.rejections.map((one) => `${one.what}: ${one.reason}`);
  for (const note of new Set([...whole.notes, ...given])) list.append(element("li", "", note));
  list.hidden = list.children.length === 0;
  return list;
}

function costsOf(whole) {
  const box = element("div");
  box.append(element("h4", "", "Time"));
  const bars = box.appendChild(element("div", "bars"));
  const times = whole.timings_ms;
  const longest = Math.max(...STAGES.map((stage) => times[stage] ?? 0), times.total, 1e-9);
  for (const stage of STAGES.filter((name) => times[name] > 0)) add(bars, stage, times[stage], longest);
  add(bars, "first word", times.first_token, longest, true);
  add(bars, "total", times.total, longest, true);
  return box;
}

function add(bars, name, ms, longest, sum = false) {
  const one = bar(name, { sum });
  one.set(ms / longest, milliseconds(ms));
  bars.append(one.row);
}
