// Refreshes the desk by itself, but not while somebody is writing or has the focus in it.

const LOOK_EVERY = 2000;

const desk = document.getElementById("desk");

async function look() {
  try {
    const page = await (await fetch(location.pathname)).text();
    const fresh = new DOMParser().parseFromString(page, "text/html").getElementById("desk");
    const busy = desk.contains(document.activeElement) || [...desk.querySelectorAll("[name=note]")].some(({ value }) => value);
    if (fresh && !busy && fresh.innerHTML !== desk.innerHTML) desk.replaceChildren(...fresh.childNodes);
  } catch {
    // The server is away: look again.
  }
  setTimeout(look, LOOK_EVERY);
}

setTimeout(look, LOOK_EVERY);
