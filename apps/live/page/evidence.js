// The frames an answer rests on: marks on a line of time, small pictures, and one of them large.

import { clock, element } from "./words.js";

const large = document.getElementById("large");
const title = document.getElementById("large-title");
const picture = document.getElementById("large-picture");
const place = document.getElementById("large-place");
const before = document.getElementById("large-before");
const after = document.getElementById("large-after");
let shown = [];
let at = 0;

before.addEventListener("click", () => turn(-1));
after.addEventListener("click", () => turn(1));
document.getElementById("large-close").addEventListener("click", () => large.close());
large.addEventListener("click", (event) => {
  if (event.target === large) large.close(); // beside the picture
});
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});

export function evidenceOf(answer) {
  const box = element("div");
  const frames = answer.evidence;
  box.append(element("h4", "", frames.length === 1 ? "1 frame looked at" : `${frames.length} frames looked at`));
  const [since, until] = [Date.parse(answer.since) / 1000, Date.parse(answer.until) / 1000];
  const line = element("div", "line");
  line.setAttribute("aria-hidden", "true");
  for (const frame of frames) {
    const mark = element("i");
    const share = (frame.time_seconds - since) / Math.max(until - since, 1e-3);
    mark.style.left = `${100 * Math.min(1, Math.max(0, share))}%`;
    line.append(mark);
  }
  const ends = element("p", "ends");
  ends.append(element("span", "", clock(since)), element("span", "", clock(until)));
  const list = element("ol", "frames");
  frames.forEach((frame, index) => list.append(item(frames, index)));
  box.append(line, ends, list);
  return box;
}

function item(frames, index) {
  const frame = frames[index];
  const button = element("button");
  button.type = "button";
  button.setAttribute("aria-label", `Enlarge the frame of ${clock(frame.time_seconds)}`);
  const image = element("img");
  image.alt = "";
  if (frame.jpeg) image.src = address(frame);
  button.append(image, element("span", "", clock(frame.time_seconds)));
  button.addEventListener("click", () => open(frames, index));
  const made = element("li");
  made.append(button);
  return made;
}

function address(frame) {
  return `data:image/jpeg;base64,${frame.jpeg}`;
}

function open(frames, index) {
  shown = frames;
  at = index;
  turn(0);
  large.showModal();
}

function turn(by) {
  at = Math.min(shown.length - 1, Math.max(0, at + by));
  const frame = shown[at];
  title.textContent = `Frame of ${clock(frame.time_seconds)}`;
  picture.src = frame.jpeg ? address(frame) : "";
  picture.alt = `What the camera saw at ${clock(frame.time_seconds)}`;
  place.textContent = `${at + 1} of ${shown.length}, ${frame.tokens} tokens`;
  before.disabled = at === 0;
  after.disabled = at === shown.length - 1;
}
