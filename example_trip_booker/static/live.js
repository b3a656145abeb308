// The live view: asks for the booking's status document and the providers' ledger until it is done.

const POLL_EVERY = 350;
const UNHEARD_AFTER = 5000; // a booking that nobody sends and nobody knows is not there
const DONE = ["completed", "failed", "cancelled"];

const field = (id) => document.getElementById(id);

let shown = { reference: null };
let ticking = null;

// Show a booking. `request`, where this page made it, is a promise of what became of it.
export function show(reference, request = null) {
  shown = { reference, status: null, booking: null, misses: 0, own: request !== null, sending: request !== null };
  const mine = shown;
  field("empty").hidden = true;
  field("booking").hidden = false;
  field("answer").hidden = true;
  field("request").closest("div").hidden = request === null;
  field("request").textContent = "on its way";
  field("elapsed").textContent = "–";
  request?.then((fate) => {
    mine.sending = false;
    if (shown === mine) field("request").textContent = fate;
  });
  clearInterval(ticking);
  ticking = setInterval(tick, 100);
  draw(mine);
  poll(mine);
}

// Show no booking.
export function clear() {
  shown = { reference: null };
  clearInterval(ticking);
  field("empty").hidden = false;
  field("booking").hidden = true;
  field("status").hidden = true;
}

async function poll(mine) {
  while (shown === mine) {
    try {
      await look(mine);
      mine.misses = 0;
    } catch {
      mine.misses += 1; // the server is down or restarts: ask again
    }
    if (shown !== mine) return;
    draw(mine);
    if (mine.missing) return;
    if (isDone(mine) && mine.answer) return;
    await new Promise((wake) => setTimeout(wake, POLL_EVERY));
  }
}

async function look(mine) {
  // The journal first: then whatever it says is done stands in the ledger too.
  const known = Boolean(mine.booking?.status_url);
  const status = known ? await getJSON(mine.booking.status_url) : null;
  const booking = await getJSON(field("live").dataset.bookings + encodeURIComponent(mine.reference));
  if (known && status === null) mine.missing = "No longer in the journal.";
  if (isUnheard(mine, booking)) mine.missing = "No such booking.";
  Object.assign(mine, { status, booking });
  if (!isDone(mine)) return;
  const response = await fetch(onThisServer(mine.status.response_url));
  mine.answer = { status: response.status, text: response.statusText, body: await response.text() };
}

function isUnheard(mine, booking) {
  if (booking?.status_url || mine.sending) return false;
  mine.unheardSince ??= performance.now();
  return performance.now() - mine.unheardSince >= UNHEARD_AFTER;
}

// Gives null for what is not there.
async function getJSON(url) {
  const response = await fetch(onThisServer(url), { headers: { Accept: "application/json" } });
  if ([404, 410].includes(response.status)) return null;
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return response.json();
}

function onThisServer(url) {
  const { pathname, search } = new URL(url, location);
  return pathname + search;
}

function isDone(mine) {
  return mine.status !== null && DONE.includes(mine.status.status);
}

// One look that fails may have met the server that is killed, while the others are there.
function isAway(mine) {
  return mine.misses > 1;
}

// Drawing: everything goes through textContent, nothing that came over the network is markup.

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

function draw(mine) {
  const { status, booking } = mine;
  drawPill(mine);
  drawChosen(booking);
  field("attempt").textContent = status?.attempt ?? "–";
  replaceWhereChanged(field("steps"), [status, booking], () => drawSteps(mine));
  replaceWhereChanged(field("calls"), booking, () => drawCalls(mine));
  if (mine.answer) drawAnswer(mine.answer);
  if (mine.missing && !mine.own) {
    field("empty").hidden = false;
    field("booking").hidden = true;
  }
  tick();
}

function replaceWhereChanged(list, data, make) {
  const version = JSON.stringify([shown.reference, data]);
  if (list.dataset.version === version) return;
  list.dataset.version = version;
  list.replaceChildren(...make());
}

function drawPill(mine) {
  const pill = field("status");
  const [tone, text] = pillOf(mine);
  if (pill.textContent !== text) pill.textContent = text;
  pill.dataset.status = tone;
  pill.hidden = false;
}

function pillOf(mine) {
  const { status, answer } = mine;
  if (mine.missing) return ["missing", mine.missing];
  if (isAway(mine)) return ["offline", "the server is away; this page keeps asking"];
  if (!status) return ["pending", mine.own ? "sending…" : "looking…"];
  if (status.status === "completed" && answer?.status >= 400) return ["refused", `answered ${answer.status}`];
  return [status.status, status.status];
}

function formOf(booking) {
  const flow = booking?.flow ?? document.querySelector("#flows input:checked").value;
  return document.querySelector(`form[data-flow="${CSS.escape(flow)}"]`);
}

function drawChosen(booking) {
  const options = [...formOf(booking).elements.failure.options];
  const option = options.find(({ value }) => value === booking?.failure);
  field("chosen").replaceChildren();
  if (option) {
    field("chosen").append(element("strong", "", `${option.textContent}.`), ` ${option.dataset.watch}`);
  }
}

// The steps in the order of the plan. One that stands only in the journal, such as release-flight,
// follows the last planned one that is there.
function drawSteps({ status, booking }) {
  const recorded = new Map((status?.steps ?? []).map((step) => [step.id, step]));
  const planned = formOf(booking).dataset.steps.split(" ");
  const extra = [...recorded.keys()].filter((id) => !planned.includes(id));
  const last = planned.findLastIndex((id) => recorded.has(id));
  const ids = planned.toSpliced(last + 1, 0, ...extra);
  const without = { completed: "skipped", failed: "missed", cancelled: "missed" };
  return ids.map((id) => drawStep(recorded.get(id) ?? { id, status: without[status?.status] ?? "planned" }, status, booking));
}

function drawStep(step, status, booking) {
  const row = element("li", "step");
  const shownAs = isOpen(step) ? openStatus(step, booking) : step.status;
  row.dataset.status = shownAs;
  row.append(
    element("span", "dot"),
    element("strong", "step-name", step.id),
    element("span", "step-state", STATES[shownAs] ?? triesOf(step)),
    element("span", "step-time", timeOf(step, status)),
  );
  const seen = providersView(step, booking);
  if (seen) row.append(element("span", "step-calls", seen));
  if (step.error_type && step.status !== "completed") {
    row.append(element("span", "step-error", step.error_type.split(".").at(-1)));
  }
  const waiting = status?.waiting_for;
  if (waiting?.step === step.id && waiting.until) {
    const countdown = element("span", "step-wait");
    countdown.dataset.until = waiting.until;
    row.append(countdown);
  }
  return row;
}

const STATES = {
  planned: "to come",
  skipped: "not needed",
  missed: "not reached",
  lost: "its server was killed",
};

function isOpen({ status }) {
  return ["planned", "running"].includes(status);
}

// A step that has no outcome in the journal: the ledger knows if its call is under way, or lost.
function openStatus(step, booking) {
  const last = booking?.calls?.filter((call) => call.step === step.id).at(-1);
  if (last?.outcome !== null) return step.status;
  return isLost(last, booking) ? "lost" : "running";
}

function isLost(call, booking) {
  return call.outcome === null && booking.kills.some(({ pid, at }) => pid === call.pid && at >= call.at);
}

function triesOf({ status, tries }) {
  const state = status === "planned" ? "running" : status;
  return tries > 1 ? `${state}, ${tries} tries` : state;
}

function timeOf(step, status) {
  if (!step.started_at) return "";
  const from = seconds(step.started_at) - seconds(status.created_at);
  const start = `+${Math.max(0, from).toFixed(1)} s`;
  if (!step.finished_at) return start;
  return `${start}, took ${(seconds(step.finished_at) - seconds(step.started_at)).toFixed(1)} s`;
}

// "called 2 times, charged once"
function providersView(step, booking) {
  const calls = booking?.calls?.filter((call) => call.step === step.id) ?? [];
  if (!calls.length) return "";
  const effects = booking.effects.filter((effect) => effect.step === step.id);
  const done = effects.length ? `, ${effects[0].effect} ${times(effects.length)}` : "";
  return `${calls[0].action} called ${times(calls.length)}${done}`;
}

function times(number) {
  return ["never", "once", "twice"][number] ?? `${number} times`;
}

function drawCalls({ status, booking }) {
  const calls = booking?.calls ?? [];
  const kills = booking?.kills ?? [];
  const servers = [...new Set([...calls, ...kills].map(({ pid }) => pid))];
  const begun = calls.length ? seconds(status?.created_at ?? calls[0].at) : 0;
  const rows = [
    ...calls.map((call) => ({ ...call, answer: answerOf(call, booking) })),
    ...kills.map((kill) => ({ ...kill, killed: true })),
  ].sort((one, other) => (one.at < other.at ? -1 : 1));
  return rows.map((row) => drawCall(row, begun, servers));
}

function answerOf(call, booking) {
  return call.outcome ?? (isLost(call, booking) ? "no answer: the server was killed" : "…");
}

function drawCall(row, begun, servers) {
  const server = element("span", "server", `pid ${row.pid}`);
  server.dataset.number = servers.indexOf(row.pid) % 3;
  const line = element("li", row.killed ? "call killed" : "call");
  line.append(
    element("span", "call-time", `+${Math.max(0, seconds(row.at) - begun).toFixed(1)} s`),
    server,
    element("span", "call-action", row.killed ? `SIGKILL ${row.moment}` : row.action),
    element("span", "call-answer", row.killed ? "" : row.answer),
  );
  return line;
}

function drawAnswer({ status, text, body }) {
  field("answer").hidden = false;
  field("answer-status").textContent = `${status} ${text}`;
  field("answer-status").dataset.ok = status < 400;
  field("answer-body").textContent = indented(body);
}

function indented(body) {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}

function seconds(moment) {
  return Date.parse(moment) / 1000;
}

// What changes between two looks: the time that has gone by, and the time until the next try.
function tick() {
  const { status } = shown;
  if (!status) return;
  if (isAway(shown)) {
    for (const countdown of document.querySelectorAll(".step-wait")) countdown.textContent = "waits for the server";
    return;
  }
  const end = status.finished_at ? seconds(status.finished_at) : Date.now() / 1000;
  field("elapsed").textContent = `${Math.max(0, end - seconds(status.created_at)).toFixed(1)} s`;
  for (const countdown of document.querySelectorAll(".step-wait")) {
    const left = seconds(countdown.dataset.until) - Date.now() / 1000;
    countdown.textContent = left > 0 ? `tries again in ${left.toFixed(1)} s` : "tries again now";
  }
  if (isDone(shown)) clearInterval(ticking);
}
