// What the camera sees: pictures of the device's source come here, or the visitor's webcam goes there.

import { call, hasSeat, leaveSeat, setSeat } from "./calls.js";

const SEND_EVERY_MS = 250;
const LOOK_EVERY_MS = 200;
const TRY_EVERY_MS = 3000;
const LONGER_PX = 640;
const QUALITY = 0.85;

const view = document.getElementById("view");
const preview = document.getElementById("preview");
const note = document.getElementById("screen-note");
const start = document.getElementById("camera-start");
const stop = document.getElementById("camera-stop");
const choice = document.getElementById("camera-choice");
const which = document.getElementById("camera-which");

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function show(picture, text = "") {
  for (const one of [view, preview]) one.hidden = one !== picture;
  note.hidden = !text;
  note.textContent = text;
}

// Show the device's source from now on.
export async function watchDevice() {
  let after = 0;
  for (;;) {
    try {
      const reply = document.hidden ? { status: 204 } : await call(`api/picture?after=${after}`);
      if (reply.status === 200) {
        after = Number(reply.headers.get("X-Time-Seconds"));
        const old = view.src;
        view.src = URL.createObjectURL(await reply.blob());
        await view.decode().catch(() => {});
        show(view);
        if (old.startsWith("blob:")) URL.revokeObjectURL(old);
      }
      await pause(LOOK_EVERY_MS);
    } catch {
      await pause(TRY_EVERY_MS); // the status line says what is wrong
    }
  }
}

// Let the visitor start and stop the webcam. `told` hears a line about what is wrong, or an empty one;
// `left` is called when the camera was stopped.
export function offerCamera(told, left) {
  let wanted = 0; // counts starts and stops, so that an earlier one notices
  document.getElementById("camera-controls").hidden = false;
  document.getElementById("camera-note").hidden = false;
  show(null, "Your camera is off.");
  start.addEventListener("click", () => run(++wanted));
  stop.addEventListener("click", () => halt());
  which.addEventListener("change", () => open(++wanted, which.value));
  addEventListener("pagehide", leaveSeat);

  function halt(text = "Your camera is off.") {
    wanted += 1;
    end(preview.srcObject);
    preview.srcObject = null;
    const focused = document.activeElement === stop;
    start.hidden = false;
    stop.hidden = choice.hidden = true;
    if (focused) start.focus();
    show(null, text);
    leaveSeat();
    left();
  }

  async function run(mine) {
    told("");
    if (!navigator.mediaDevices) {
      told("Browsers give a page the camera on localhost or over https only: start the server with --tls-self-made.");
      return;
    }
    await open(mine, "");
  }

  async function open(mine, id) {
    const size = { width: { ideal: LONGER_PX }, height: { ideal: LONGER_PX } };
    const focused = document.activeElement === start;
    let stream = null;
    start.disabled = true;
    try {
      end(preview.srcObject);
      const video = id ? { ...size, deviceId: { exact: id } } : { ...size, facingMode: { ideal: "environment" } };
      stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
      if (mine === wanted) {
        preview.srcObject = stream;
        await preview.play();
      }
    } catch (error) {
      start.disabled = false;
      end(stream);
      if (mine !== wanted) return;
      halt();
      if (focused) start.focus();
      told(refusalOf(error));
      return;
    }
    start.disabled = false;
    if (mine !== wanted) {
      end(stream); // stopped, or another camera was chosen, while the browser opened this one
      return;
    }
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => {
      if (mine === wanted) {
        halt();
        told("The camera was unplugged, or the browser took it away.");
      }
    });
    start.hidden = true;
    stop.hidden = false;
    if (focused) stop.focus();
    show(preview);
    await listCameras(track);
    await send(() => mine === wanted);
  }

  // Take the seat and send frames, one after the other: the newest one always, never a queue of old ones.
  async function send(going) {
    const canvas = document.createElement("canvas");
    while (going()) {
      const since = performance.now();
      try {
        if (!hasSeat()) {
          const taken = (await (await call("api/camera", { method: "POST" })).json()).seat;
          setSeat(taken);
          if (!going()) leaveSeat();
        }
        const body = await shot(canvas);
        if (!going()) return;
        if (body) await call("api/camera/frame", { method: "POST", body, headers: { "Content-Type": "image/jpeg" } });
        told("");
      } catch (error) {
        if (!going()) return;
        if (error.code === "no_seat") setSeat("");
        told(error.message);
        const lost = error.code === "no_seat" && error.status === 409; // another status: the session did not start
        await pause(lost ? SEND_EVERY_MS : TRY_EVERY_MS);
      }
      await pause(Math.max(0, SEND_EVERY_MS - (performance.now() - since)));
    }
  }
}

function end(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

async function shot(canvas) {
  const [width, height] = [preview.videoWidth, preview.videoHeight];
  if (!width) return null;
  const scale = Math.min(1, LONGER_PX / Math.max(width, height));
  canvas.width = Math.round(scale * width);
  canvas.height = Math.round(scale * height);
  canvas.getContext("2d").drawImage(preview, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}

async function listCameras(track) {
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
  which.replaceChildren(...cameras.map((one, at) => new Option(one.label || `Camera ${at + 1}`, one.deviceId)));
  which.value = track.getSettings().deviceId ?? "";
  choice.hidden = cameras.length < 2;
}

function refusalOf(error) {
  if (error.name === "NotAllowedError") return "The browser did not give this page the camera: allow it, then start again.";
  if (error.name === "NotFoundError") return "This device has no camera that the browser knows of.";
  return `The camera cannot be started: ${error.message || error.name}`;
}
