// The forms: send a booking off under a reference of our own, and show it.

import { show } from "./live.js";

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
    if (response.redirected) return "broke off; the browser repeated it, which booked nothing more";
    const meaning = response.status === 202 ? ", the rest goes on without it" : "";
    return `answered ${response.status} ${after()}${meaning}`;
  } catch {
    return `broke off ${after()}, the booking goes on`;
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
  if (location.hash.length > 1) show(decodeURIComponent(location.hash.slice(1)));
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
