// The forms: turn the chosen values into a booking, send it, and show it.

import { draft, find, list, newDraft } from "./bookings.js";
import { element, field } from "./draw.js";
import { follow, hide, isShown, kill, show, showSource, tell } from "./live.js";
import { send } from "./send.js";

const forms = [...document.querySelectorAll("form")];
const sending = new Map();

function chooseFlow(flow) {
  document.querySelector(`#flows input[value="${CSS.escape(flow)}"]`).checked = true;
  for (const form of forms) form.hidden = form.dataset.flow !== flow;
}

function explain(form) {
  const option = form.elements.failure.selectedOptions[0];
  form.querySelector(".watch").textContent = option.dataset.watch;
  form.querySelector(".yours").hidden = option.value !== "yours";
}

// The chosen failure is in the query; the body is what an ordinary client sends.
function requestOf(form) {
  const { failure, step, times, ...body } = Object.fromEntries(new FormData(form));
  const query = failure === "yours" ? { failure, step, times } : { failure };
  const option = form.elements.failure.selectedOptions[0];
  const own = failure === "yours" ? `${step} fails ${form.elements.times.selectedOptions[0].text}` : option.text;
  return {
    flow: form.dataset.flow,
    url: `${new URL(form.action).pathname}?${new URLSearchParams(query)}`,
    body,
    title: own,
    watch: option.dataset.watch,
  };
}

function book(event) {
  event.preventDefault();
  const booking = draft(requestOf(event.target));
  if (!isShown(booking)) {
    history.pushState(null, "", `#${booking.token ?? booking.key}`);
    show(booking);
  }
  deliver(booking);
  listRecent();
  if (matchMedia("(max-width: 899px)").matches) field("ticket").scrollIntoView({ behavior: "smooth" });
}

// Each click sends its own request, one after the other, because all update the same booking.
function deliver(booking) {
  const before = sending.get(booking.key) ?? Promise.resolve();
  const run = before.then(() => sendOnce(booking));
  sending.set(booking.key, run);
}

async function sendOnce(booking) {
  await send(booking, (text) => tell(booking, text));
  listRecent();
  if (!isShown(booking)) return;
  // From now on the address can be shared with others.
  const { token } = find(booking.key);
  if (token) history.replaceState(null, "", `#${token}`);
  follow();
}

function showFromAddress() {
  const name = decoded(location.hash.slice(1));
  if (!name) return leave();
  const booking = find(name) ?? { token: name };
  show(booking);
  if (booking.key && !booking.token && !booking.ended) deliver(booking);
}

function leave() {
  hide();
  showSource(document.querySelector("#flows input:checked").value);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // typed by hand
  }
}

function listRecent() {
  const bookings = list();
  field("recent").hidden = !bookings.length;
  field("recent").querySelector("ul").replaceChildren(...bookings.slice(0, 5).map(drawRecent));
}

function drawRecent({ flow, title, key, token, body }) {
  const link = element("a", "", body.origin ? `${body.origin} to ${body.destination}` : Object.values(body)[0]);
  link.href = `#${token ?? key}`;
  return element("li", "", link, element("span", "", ` ${title}`));
}

for (const form of forms) {
  form.addEventListener("submit", book);
  form.elements.failure.addEventListener("change", () => explain(form));
  explain(form);
}
field("flows").addEventListener("change", (event) => {
  chooseFlow(event.target.value);
  if (field("ticket").hidden) showSource(event.target.value);
});
field("kill").addEventListener("click", kill);
field("another").addEventListener("click", () => {
  newDraft();
  history.pushState(null, "", location.pathname);
  leave();
  document.querySelector("form:not([hidden]) input").focus();
});
chooseFlow(document.querySelector("#flows input:checked").value);
addEventListener("popstate", showFromAddress);
showFromAddress();
listRecent();
