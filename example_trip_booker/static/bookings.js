// The bookings of this browser. They are kept in localStorage, so that a reload, a closed page or a
// closed laptop loses nothing: with a booking's key the same request can be sent again.

const NAME = "trip-booker";
const KEPT = 12;

let memory = { bookings: [], draft: null };

function read() {
  try {
    memory = JSON.parse(localStorage.getItem(NAME)) ?? memory;
  } catch {
    // Private windows may have no storage: then bookings are kept as long as the page is open.
  }
  return memory;
}

function write(state) {
  memory = state;
  try {
    localStorage.setItem(NAME, JSON.stringify(state));
  } catch {
    // As above.
  }
}

export function list() {
  return read().bookings;
}

export function find(name) {
  return list().find(({ key, token }) => key === name || token === name);
}

// Stores what has become known about a booking.
export function update(key, changes) {
  const state = read();
  const bookings = state.bookings.map((booking) => (booking.key === key ? { ...booking, ...changes } : booking));
  write({ ...state, bookings });
}

// The booking for a form's values. As long as they are unchanged and the booking has not ended, it is
// the same booking: a second click sends the same request, with the same key.
export function draft(request) {
  const state = read();
  const content = JSON.stringify([request.flow, request.url, request.body]);
  const known = state.draft?.content === content && find(state.draft.key);
  if (known && !known.ended) return known;
  const booking = { ...request, key: newKey(), at: Date.now() };
  write({ draft: { content, key: booking.key }, bookings: [booking, ...state.bookings].slice(0, KEPT) });
  return booking;
}

export function newDraft() {
  write({ ...read(), draft: null });
}

// Browsers have randomUUID only on https and on localhost, not on an address of the local network.
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
