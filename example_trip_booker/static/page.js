// The forms: send a booking off under a reference of our own, and show it.

import { clear, show } from "./live.js";

const forms = [...document.querySelectorAll("form")];

function chooseFlow(flow) {
  document.querySelector(`#flows input[value="${CSS.escape(flow)}"]`).checked = true;
  for (const form of forms) form.hidden = form.dataset.flow !== flow;
}

function explainFailure(form) {
  form.querySelector(".watch").textContent =
    form.elements.failure.selectedOptions[0].dataset.watch;
}

// The request goes out exactly as any client would send it. The choice of failure and the reference
// travel in the query.
function requestOf(form, reference) {
  const { failure, ...fields } = Object.fromEntries(new FormData(form));
  const url = new URL(form.action);
  const options = { method: form.method.toUpperCase() };
  if (options.method === "GET") {
    url.search = new URLSearchParams(fields);
  } else {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(fields);
  }
  url.searchParams.set("failure", failure);
  url.searchParams.set("reference", reference);
  return [url, options];
}

// What became of the browser's own request. The booking does not depend on it.
async function send(form, reference) {
  const [url, options] = requestOf(form, reference);
  const started = performance.now();
  const after = () => `after ${((performance.now() - started) / 1000).toFixed(1)} s`;
  try {
    const response = await fetch(url, options);
    if (response.redirected) return "the connection broke; the browser sent it again, and nothing was booked twice";
    const meaning = response.status === 202 ? ", the rest goes on without it" : "";
    return `answered ${response.status} ${after()}${meaning}`;
  } catch {
    return `the connection broke ${after()}; a booking that had begun goes on`;
  }
}

function newReference() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function book(event) {
  event.preventDefault();
  const reference = newReference();
  history.pushState(null, "", `#${reference}`);
  show(reference, send(event.target, reference));
  if (matchMedia("(max-width: 899px)").matches) document.querySelector("#live").scrollIntoView();
}

function showFromAddress() {
  const reference = decoded(location.hash.slice(1));
  if (reference) show(reference);
  else clear();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // typed by hand
  }
}

for (const form of forms) {
  form.addEventListener("submit", book);
  form.elements.failure.addEventListener("change", () => explainFailure(form));
  explainFailure(form);
}
document.querySelector("#flows").addEventListener("change", (event) => chooseFlow(event.target.value));
chooseFlow(document.querySelector("#flows input:checked").value);
addEventListener("hashchange", showFromAddress);
showFromAddress();
