// Drawing. All text is set as text content, so nothing from the network is taken for HTML.

export const field = (id) => document.getElementById(id);

export function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

// Draws those rows of a list again whose data have changed, and leaves the others alone.
export function sync(list, rows, make) {
  const old = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const children = rows.map((row) => {
    const version = JSON.stringify(row);
    const known = old.get(row.key);
    if (known?.dataset.version === version) return known;
    const made = make(row);
    Object.assign(made.dataset, { key: row.key, version });
    return made;
  });
  if (children.length !== list.children.length || children.some((child, at) => child !== list.children[at])) {
    list.replaceChildren(...children);
  }
}

export function say(id, text) {
  if (field(id).textContent !== text) field(id).textContent = text;
}

export function seconds(moment) {
  return Date.parse(moment) / 1000;
}

export function times(number) {
  return ["never", "once", "twice"][number] ?? `${number} times`;
}

export function drawRoute(body) {
  if (!body?.origin) return null;
  const plane = element("span", "plane");
  plane.setAttribute("role", "img");
  plane.setAttribute("aria-label", "to");
  return [element("b", "", body.origin), plane, element("b", "", body.destination)];
}

const STATES = {
  planned: "to come",
  skipped: "not needed",
  missed: "not reached",
  lost: "server killed",
};

export function drawStep(row) {
  const made = element("li", "step");
  made.dataset.status = row.status;
  made.append(
    element("span", "dot"),
    element("strong", "step-name", row.id),
    element("span", "step-state", STATES[row.status] ?? stateOf(row)),
  );
  for (const line of row.lines) made.append(element("span", "step-line", line));
  if (row.error && row.status !== "completed") made.append(element("span", "step-error", row.error));
  if (row.until) made.append(drawCountdown(row));
  if (row.seen) made.append(element("span", "step-calls", row.seen));
  if (row.started) made.append(drawTrack(row));
  return made;
}

function stateOf({ status, tries }) {
  const state = status === "completed" ? "done" : status;
  return tries > 1 ? `${state}, ${tries} tries` : state;
}

// "tries again in 2.9 s", with a bar that gets shorter; `tick` updates both.
function drawCountdown({ until, waits }) {
  const made = element("span", "step-wait", element("span", "wait-text"), element("span", "wait-bar", element("i")));
  Object.assign(made.dataset, { until, waits, total: Math.max(0.1, seconds(until) - Date.now() / 1000) });
  return made;
}

function drawTrack({ started, finished, begun }) {
  const made = element("span", "step-time", element("span", "track", element("i")), element("span", "took"));
  Object.assign(made.dataset, { from: seconds(started) - begun, to: finished ? seconds(finished) - begun : "" });
  return made;
}

// Updates countdowns and bars. `total` is the booking's age in seconds.
export function tick(total, away) {
  for (const wait of document.querySelectorAll(".step-wait")) {
    const left = seconds(wait.dataset.until) - Date.now() / 1000;
    wait.querySelector(".wait-text").textContent = away ? "waits for a server" : countdown(left, wait.dataset.waits);
    wait.querySelector("i").style.width = `${Math.min(100, Math.max(0, (left / wait.dataset.total) * 100))}%`;
  }
  for (const time of document.querySelectorAll(".step-time")) {
    const from = Number(time.dataset.from);
    const to = time.dataset.to === "" ? total : Number(time.dataset.to);
    const bar = time.querySelector("i");
    bar.style.left = `${Math.min(99, (from / Math.max(total, 0.1)) * 100)}%`;
    bar.style.width = `${Math.max(1, ((to - from) / Math.max(total, 0.1)) * 100)}%`;
    time.querySelector(".took").textContent = `${Math.max(0, to - from).toFixed(1)} s`;
  }
}

function countdown(left, waits) {
  if (waits === "callback") return left > 0 ? `declined in ${clock(left)} unless the manager answers` : "declined: nobody answered";
  return left > 0 ? `tries again in ${left.toFixed(1)} s` : "tries again now";
}

function clock(left) {
  return `${Math.floor(left / 60)}:${String(Math.floor(left % 60)).padStart(2, "0")}`;
}

export function drawServer({ pid, number, killed }) {
  const chip = element("span", killed ? "server killed" : "server", `pid ${pid}`);
  chip.dataset.number = number;
  if (killed) chip.title = "killed";
  return chip;
}

export function drawCall(row) {
  const line = element("li", row.moment ? "call killed" : "call");
  line.append(
    element("span", "call-time", row.after),
    drawServer(row),
    element("span", "call-action", row.moment ? `SIGKILL ${row.moment}` : row.action),
    element("span", "call-answer", row.answer ?? ""),
  );
  return line;
}

export function indented(body) {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}
