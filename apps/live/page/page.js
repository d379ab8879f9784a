// Where the page begins: who this server is, whether it wants a key, and whose camera is looked at.

import { call, hasSeat, setKey } from "./calls.js";
import { clearSession, watchSession } from "./gauges.js";
import { offerCamera, watchDevice } from "./sight.js";
import { clearTalk } from "./talk.js";

const IN_ADDRESS = "#key=";

const problem = document.getElementById("problem");
const keyForm = document.getElementById("key-form");
const key = document.getElementById("key");
const said = { camera: "", session: "" };
let tried = false;

function say(who, text) {
  said[who] = text;
  const line = said.camera || said.session;
  if (problem.textContent !== line) problem.textContent = line;
  problem.hidden = !line;
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  tryKey(key.value.trim());
  key.value = "";
  begin();
});

function tryKey(text) {
  tried = true;
  setKey(text);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return ""; // a % that begins no character
  }
}

async function begin() {
  let about;
  try {
    about = await (await call("api/about")).json();
  } catch (error) {
    const wantsKey = error.status === 401;
    say("session", !wantsKey ? error.message : tried ? "That is not the key." : "");
    keyForm.hidden = !wantsKey;
    if (wantsKey) key.focus();
    else setTimeout(begin, 3000);
    return;
  }
  say("session", "");
  keyForm.hidden = true;
  document.getElementById("main").hidden = false;
  document.getElementById("about").textContent = `${about.model}, version ${about.version}`;
  clearSession();
  if (about.visitor) {
    offerCamera(
      (text) => say("camera", text),
      () => {
        clearSession();
        clearTalk();
      },
    );
  } else {
    watchDevice();
  }
  watchSession(
    () => !about.visitor || hasSeat(),
    (error) => say("session", error === null || error.code === "no_seat" ? "" : error.message),
  );
}

// The address may carry the key, so that it can be opened from elsewhere: https://host:8001/#key=...
if (location.hash.startsWith(IN_ADDRESS)) {
  tryKey(decoded(location.hash.slice(IN_ADDRESS.length)));
  history.replaceState(null, "", location.pathname);
}
begin();
