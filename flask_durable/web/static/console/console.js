"use strict";

// Pages are complete without this script. It keeps the part that changes up to date, shows
// steps' outputs in place, and writes times in the reader's language and time zone.

const HEADERS = { "Durable-Console": "part" };
const LONGEST_PAUSE = 10000;
let failures = 0;
let timer = 0;

function part() {
  return document.getElementById("part");
}

async function load(url) {
  const answer = await fetch(url, { headers: HEADERS, credentials: "same-origin", cache: "no-store" });
  if (!answer.ok) throw new Error(String(answer.status));
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

// What the reader opened stays open, with what was loaded into it.
function keep(old, fresh) {
  for (const details of old.querySelectorAll("details[id]")) {
    const next = fresh.querySelector("#" + CSS.escape(details.id));
    if (!next) continue;
    next.open = details.open;
    const body = details.querySelector(".lazy[data-loaded]");
    const place = next.querySelector(".lazy");
    if (body && place && details.dataset.version === next.dataset.version) place.replaceWith(body);
  }
}

function replace(fresh) {
  const old = part();
  const focused = document.activeElement && old.contains(document.activeElement) ? document.activeElement.id : "";
  keep(old, fresh);
  fresh = document.adoptNode(fresh);
  const place = placeInProgress(old);
  old.replaceWith(fresh);
  followProgress(place);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  if (fresh.dataset.status && fresh.dataset.status !== old.dataset.status) {
    document.getElementById("announce").textContent = fresh.dataset.status;
  }
  dress(fresh);
}

// The newest progress message stays in sight, unless the reader has scrolled up.
function placeInProgress(root) {
  const lines = root.querySelector(".said");
  const atEnd = !lines || lines.scrollTop + lines.clientHeight > lines.scrollHeight - 4;
  return atEnd ? null : lines.scrollTop;
}

function followProgress(place) {
  const lines = part()?.querySelector(".said");
  if (lines) lines.scrollTop = place ?? lines.scrollHeight;
}

function isRead() {
  const chosen = document.getSelection();
  return chosen && !chosen.isCollapsed && part().contains(chosen.anchorNode);
}

async function refresh() {
  if (document.hidden || isRead()) return plan();
  const before = part();
  try {
    const page = await load(location.href);
    const fresh = page.getElementById("part");
    if (!fresh) throw new Error("no part");
    failures = 0;
    if (before === part() && before.outerHTML !== fresh.outerHTML) replace(fresh);
  } catch {
    failures += 1;
  }
  show();
  plan();
}

function plan() {
  clearTimeout(timer);
  const pause = Number(part()?.dataset.live);
  if (pause) timer = setTimeout(refresh, Math.min(LONGEST_PAUSE, pause * 2 ** failures));
}

function show() {
  const mark = document.getElementById("live");
  if (!mark) return;
  mark.hidden = !part()?.dataset.live;
  mark.classList.toggle("away", failures > 0);
  mark.lastElementChild.textContent = failures > 0 ? "Server away, trying again" : "Live";
}

async function open(details) {
  const place = details.querySelector(".lazy");
  if (!details.open || !place || place.dataset.loaded) return;
  place.dataset.loaded = details.dataset.version;
  try {
    const page = await load(details.dataset.src);
    place.replaceChildren(...page.body.childNodes);
    times(place);
  } catch {
    delete place.dataset.loaded;
  }
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];

function ago(seconds) {
  const left = Math.abs(seconds);
  if (left < 1) return "now";
  const [size, unit] = UNITS.find(([size]) => left >= size);
  const words = Math.floor(left / size) + " " + unit;
  return seconds > 0 ? words + " ago" : "in " + words;
}

function times(root) {
  for (const time of root.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    time.title = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
    if ("ago" in time.dataset) time.textContent = ago((Date.now() - moment) / 1000);
  }
}

function dress(root) {
  times(root);
  for (const details of root.querySelectorAll("details[data-src]")) {
    details.addEventListener("toggle", () => open(details));
    open(details);
  }
}

function copying() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const confirm = document.querySelector(".confirm[open]");
  if (confirm) {
    confirm.open = false;
    confirm.querySelector("summary").focus();
  }
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && part()?.dataset.live) refresh();
});

// Leaves empty filters out of the address, so that it stays short.
document.querySelector("form.filters")?.addEventListener("submit", (event) => {
  for (const field of event.target.elements) field.disabled = field.name !== "" && !field.value;
});
window.addEventListener("pageshow", () => {
  for (const field of document.querySelector("form.filters")?.elements ?? []) field.disabled = false;
});

setInterval(() => times(document), 10000);
dress(document);
followProgress(null);
copying();
show();
plan();
