// What this browser has booked. It is kept in localStorage, so that a reload, a closed page or a
// closed laptop loses nothing: with the key of a booking the same request can be sent again.

const NAME = "trip-booker";
const KEPT = 12;

let memory = { bookings: [], draft: null };

function read() {
  try {
    memory = JSON.parse(localStorage.getItem(NAME)) ?? memory;
  } catch {
    // Private windows may have no storage: then it lasts as long as the page.
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

// Writes down what has become known of a booking.
export function update(key, changes) {
  const state = read();
  const bookings = state.bookings.map((booking) => (booking.key === key ? { ...booking, ...changes } : booking));
  write({ ...state, bookings });
}

// The booking that a form stands for. As long as nothing in it is changed and the booking goes on,
// it is the same one: a second click is the same request, with the same key.
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

// randomUUID is there on https and on this machine; an address of the local network is neither.
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
