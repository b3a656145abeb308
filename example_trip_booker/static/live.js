// The live view of one booking: its steps, the view's source, and the providers' ledger.

import { find, update } from "./bookings.js";
import { drawCall, drawRoute, drawServer, drawStep, element, field, indented, say, seconds, sync, tick, times } from "./draw.js";
import { Watch } from "./watch.js";

const OPEN = ["running", "retrying", "sleeping", "waiting"];
const LEDGER_EVERY = 700;
const BANNER_STAYS = 1500; // so that it can be read, even if the next server answers at once

const urls = field("main").dataset;
let shown = null;

// Shows a booking of this browser, or one from a shared link, of which only the token is known.
export function show(booking) {
  hide();
  const mine = { booking, ledger: null, note: null, bannerUntil: 0, said: new Map() };
  shown = mine;
  mine.ticking = setInterval(() => tickAll(mine), 100);
  follow(mine);
}

// Called when a server has answered: from now on the booking can be watched.
export function follow(mine = shown) {
  mine.booking = find(mine.booking.key) ?? mine.booking;
  mine.note = null;
  draw(mine);
  if (mine.watch || !mine.booking.token) return;
  mine.watch = new Watch(urls.statusUrl.replace("TOKEN", mine.booking.token), () => changed(mine));
  mine.watch.start();
}

export function hide() {
  shown?.watch?.stop();
  clearInterval(shown?.ticking);
  clearTimeout(shown?.timer);
  shown = null;
  for (const id of ["ticket", "offline", "approval", "answer", "providers"]) field(id).hidden = true;
  field("hints").hidden = false;
  field("steps").replaceChildren();
  markSource([]);
}

export function isShown(booking) {
  return shown?.booking.key === booking.key;
}

// Shows how the browser's own request is doing.
export function tell(booking, text) {
  if (!isShown(booking)) return;
  shown.note = text;
  draw(shown);
}

function changed(mine) {
  if (shown !== mine) return;
  const { watch, booking } = mine;
  if (watch.away) mine.bannerUntil = performance.now() + BANNER_STAYS;
  if (watch.ended && watch.answer && booking.key && !booking.ended) {
    booking.ended = true;
    update(booking.key, { ended: true });
  }
  askLedger(mine);
  draw(mine);
}

// Loads the ledger at every change, and now and then in between.
async function askLedger(mine) {
  const id = mine.watch.execution?.id;
  if (!id || mine.asking) return;
  mine.asking = true;
  const last = mine.watch.ended;
  try {
    const response = await fetch(urls.ledgerUrl.replace("ID", id), { signal: AbortSignal.timeout(5000) });
    if (response.ok) mine.ledger = await response.json();
  } catch {
    // The server is away: keep showing what is known.
  }
  mine.asking = false;
  if (shown !== mine) return;
  draw(mine);
  clearTimeout(mine.timer);
  if (!last || !mine.ledger) mine.timer = setTimeout(() => askLedger(mine), LEDGER_EVERY);
}

function draw(mine) {
  const flow = flowOf(mine);
  field("ticket").hidden = false;
  field("hints").hidden = true;
  drawTicket(mine, flow);
  drawBanners(mine);
  const rows = rowsOf(mine, flow);
  sync(field("steps"), rows, drawStep);
  announce(mine, rows);
  showSource(flow);
  markSource(rows);
  drawAnswer(mine);
  drawLedger(mine);
  tickAll(mine);
}

function flowOf({ watch, booking }) {
  return watch?.execution?.endpoint ?? booking.flow ?? document.querySelector("#flows input:checked").value;
}

function drawTicket(mine, flow) {
  const { booking, watch } = mine;
  const title = document.querySelector(`#flows input[value="${CSS.escape(flow)}"]`)?.parentElement.textContent.trim();
  const route = drawRoute(booking.body) ?? [Object.values(booking.body ?? {}).join(" · ") || title || flow];
  if (field("ticket-title").textContent !== route.map((part) => part.textContent ?? part).join("")) field("ticket-title").replaceChildren(...route);
  drawPill(mine);
  say("chosen", booking.title ? `${booking.title}. ${booking.watch}` : "");
  say("attempt", `${watch?.execution?.attempt ?? "–"}`);
  say("request", mine.note ?? booking.fate ?? "on its way");
  field("request").parentElement.hidden = !booking.key;
  say("key", booking.key ?? "");
  field("key").closest("div").hidden = !booking.key;
  const over = Boolean(watch?.ended || watch?.missing || booking.ended);
  field("kill").hidden = over || !watch?.execution;
  field("kill-note").hidden = field("kill").hidden;
  const link = field("console");
  link.hidden = !watch?.execution;
  if (!link.hidden) link.href = urls.consoleUrl.replace("ID", watch.execution.id);
}

function drawPill(mine) {
  const [tone, text] = pillOf(mine);
  say("status", text);
  field("status").dataset.status = tone;
}

function pillOf({ watch, booking, note }) {
  if (watch?.missing) return ["missing", "no such booking"];
  if (booking.ended && !watch) return ["failed", note ?? booking.fate];
  if (!watch?.execution) return ["pending", booking.token ? "looking…" : "sending…"];
  const { status } = watch.execution;
  if (status === "completed" && watch.answer?.status >= 400) return ["refused", `answered ${watch.answer.status}`];
  return [status, status];
}

function drawBanners(mine) {
  const { watch } = mine;
  const away = Boolean(watch?.away) || performance.now() < mine.bannerUntil;
  const text = watch?.misses > 1
    ? "No server answers. What you see is what the journal said last; this page reconnects by itself."
    : "The connection broke. What you see is what the journal said last; reconnecting…";
  if (away) say("offline", text);
  field("offline").hidden = !away;
  const waits = [...(watch?.steps.values() ?? [])].some((step) => step.kind === "callback" && step.status === "waiting");
  field("approval").hidden = !waits || watch.ended;
}

// The steps in the order in which they began, then those still to come.
function rowsOf(mine, flow) {
  const { watch, ledger, booking } = mine;
  if (watch?.missing) return [];
  const planned = document.querySelector(`.source[data-flow="${CSS.escape(flow)}"]`)?.dataset.planned.split(" ") ?? [];
  const rank = ({ id }) => (planned.indexOf(id) + 1) || planned.length;
  const recorded = [...(watch?.steps.values() ?? [])].sort(
    (one, other) => Math.round((seconds(one.started_at) - seconds(other.started_at)) * 5) || rank(one) - rank(other),
  );
  const rest = planned.filter((id) => !watch?.steps.has(id)).map((id) => ({ id, status: "planned", tries: 0 }));
  const over = { completed: "skipped", failed: "missed", cancelled: "missed" }[watch?.execution?.status];
  return [...recorded, ...rest].map((step) => rowOf(step, over, watch, ledger));
}

function rowOf(step, over, watch, ledger) {
  const execution = watch?.execution;
  const calls = ledger?.calls.filter((call) => call.step === step.id) ?? [];
  const status = ["planned", "running"].includes(step.status) ? openStatus(step, calls.at(-1), over, ledger) : step.status;
  const waiting = execution?.waiting_for?.step === step.id ? execution.waiting_for : null;
  const lines = watch?.lines.filter((line) => line.step === step.id) ?? [];
  return {
    key: step.id,
    id: step.id,
    status,
    tries: step.tries,
    lines: told(lines).slice(-2),
    error: step.error_type ? errorOf(step, calls) : null,
    until: OPEN.includes(step.status) ? waiting?.until : null,
    waits: step.kind,
    seen: providersView(calls, step.id, ledger),
    started: step.started_at ?? (status === "running" || status === "lost" ? calls[0]?.at : null),
    finished: step.finished_at,
    begun: execution ? seconds(execution.created_at) : 0,
  };
}

// A message that several tries repeated is shown once, at its last place, with the count.
function told(lines) {
  const counts = new Map();
  for (const { message } of lines) {
    const count = (counts.get(message) ?? 0) + 1;
    counts.delete(message);
    counts.set(message, count);
  }
  return [...counts].map(([message, count]) => (count > 1 ? `${message} (${times(count)})` : message));
}

// The status document has only the error's class; the ledger has its message, too.
function errorOf(step, calls) {
  const name = step.error_type.split(".").at(-1);
  return calls.findLast(({ outcome }) => outcome?.startsWith(`${name}:`))?.outcome ?? name;
}

// For a step without an outcome, the ledger knows whether its call is running, or lost.
function openStatus(step, last, over, ledger) {
  if (over) return over;
  if (!last || last.outcome !== null) return step.status;
  return isLost(last, ledger) ? "lost" : "running";
}

function isLost(call, { kills }) {
  return call.outcome === null && kills.some(({ pid, at }) => pid === call.pid && at >= call.at);
}

// "bank.charge called 3 times, charged once"
function providersView(calls, id, ledger) {
  if (!calls.length) return "";
  const effects = ledger.effects.filter(({ step }) => step === id);
  const done = effects.length ? `, ${effects[0].effect} ${times(effects.length)}` : "";
  return `${calls[0].action} called ${times(calls.length)}${done}`;
}

const SAID = {
  completed: "is done",
  retrying: "failed and is tried again",
  waiting: "waits",
  failed: "failed",
  lost: "lost its server",
};

// Screen readers announce the changes in the timeline, but no countdown.
function announce(mine, rows) {
  const news = rows.filter(({ id, status }) => mine.said.get(id) !== status);
  for (const { id, status } of news) mine.said.set(id, status);
  const text = news.filter(({ status }) => SAID[status]).map(({ id, status }) => `${id} ${SAID[status]}.`);
  if (mine.watch?.answer && !mine.saidEnd) {
    mine.saidEnd = true;
    text.push(`The final response is ${mine.watch.answer.status}.`);
  }
  if (text.length) say("announce", text.join(" "));
}

export function showSource(flow) {
  for (const list of document.querySelectorAll(".source")) list.hidden = list.dataset.flow !== flow;
}

// Marks the lines of the source with the statuses of their steps.
function markSource(rows) {
  const states = new Map(rows.map(({ id, status }) => [id, status]));
  for (const line of document.querySelectorAll(".source:not([hidden]) li")) {
    const id = line.dataset.steps.split(" ").find((name) => states.has(name));
    const status = id ? states.get(id) : "";
    const current = [...OPEN, "lost"].includes(status);
    if (line.dataset.status === status) continue;
    line.dataset.status = status;
    line.toggleAttribute("data-current", current);
    if (current) line.setAttribute("aria-current", "step");
    else line.removeAttribute("aria-current");
  }
}

function drawAnswer({ watch }) {
  field("answer").hidden = !watch?.answer;
  if (!watch?.answer) return;
  const { status, text, body } = watch.answer;
  say("answer-status", `${status} ${text}`);
  field("answer-status").dataset.ok = status < 400;
  say("answer-body", indented(body));
}

function drawLedger({ watch, ledger }) {
  const calls = ledger?.calls ?? [];
  const kills = ledger?.kills ?? [];
  field("providers").hidden = !calls.length && !kills.length;
  const pids = [...new Set([...calls, ...kills].map(({ pid }) => pid))];
  const servers = pids.map((pid, number) => ({ key: `${pid}`, pid, number: number % 4, killed: kills.some((kill) => kill.pid === pid) }));
  sync(field("servers"), servers, drawServer);
  if (!pids.length && !field("servers").children.length) field("servers").replaceChildren("–");
  const begun = watch?.execution ? seconds(watch.execution.created_at) : 0;
  const rows = [...calls, ...kills].sort((one, other) => (one.at < other.at ? -1 : 1));
  sync(field("calls"), rows.map((row, at) => callOf(row, at, begun, servers, ledger)), drawCall);
}

function callOf(row, at, begun, servers, ledger) {
  const answer = row.moment ? "" : row.outcome ?? (isLost(row, ledger) ? "no answer: the server was killed" : "…");
  const after = `+${Math.max(0, seconds(row.at) - begun).toFixed(1)} s`;
  const { number, killed } = servers.find(({ pid }) => pid === row.pid);
  return { ...row, key: `${at}`, answer, after, number, killed: Boolean(row.moment) && killed };
}

function tickAll(mine) {
  const execution = mine.watch?.execution;
  const end = execution?.finished_at ? seconds(execution.finished_at) : Date.now() / 1000;
  const total = execution ? Math.max(0, end - seconds(execution.created_at)) : 0;
  const away = Boolean(mine.watch?.away && mine.watch.misses > 1);
  if (!(away && execution)) say("elapsed", execution ? `${total.toFixed(1)} s` : "–");
  tick(total, away);
  if (mine.bannerUntil && performance.now() > mine.bannerUntil && !field("offline").hidden) drawBanners(mine);
}

// The kill button. The killed server may be the one that gets this request.
export async function kill() {
  const mine = shown;
  field("kill").disabled = true;
  try {
    const body = JSON.stringify({ execution: mine.watch.execution.id });
    const response = await fetch(urls.killUrl, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const { pid } = await response.json();
    say("announce", `Server ${pid} is killed.`);
  } catch {
    say("announce", "The server is killed.");
  }
  setTimeout(() => (field("kill").disabled = false), 1000);
}
