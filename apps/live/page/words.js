// Numbers and times as a person reads them, and elements with text in them: text never becomes HTML.

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

export function clock(seconds) {
  const day = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const tenths = Math.floor(day.getMilliseconds() / 100);
  return `${two(day.getHours())}:${two(day.getMinutes())}:${two(day.getSeconds())}.${tenths}`;
}

export function size(bytes) {
  const mebibytes = bytes / 2 ** 20;
  return mebibytes < 1024 ? `${mebibytes.toFixed(0)} MiB` : `${(mebibytes / 1024).toFixed(1)} GiB`;
}

export function milliseconds(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

export function duration(seconds) {
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// A named bar; `meter` has screen readers read it as one.
export function bar(name, { meter = false, sum = false } = {}) {
  const row = element("div", sum ? "bar sum" : "bar");
  const track = element("div", "track");
  const fill = track.appendChild(element("div", "fill"));
  const value = element("span", "value");
  row.append(element("span", "name", name), track, value);
  if (meter) {
    track.setAttribute("role", "meter");
    track.setAttribute("aria-label", name);
    track.setAttribute("aria-valuemin", "0");
    track.setAttribute("aria-valuemax", "100");
  }
  return {
    row,
    set(share, text) {
      const percent = Math.round(100 * Math.min(1, Math.max(0, share || 0)));
      fill.style.width = `${percent}%`;
      value.textContent = text;
      if (meter) {
        track.setAttribute("aria-valuenow", String(percent));
        track.setAttribute("aria-valuetext", text);
      }
    },
  };
}
