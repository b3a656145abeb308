// Sends a booking as any client can: by POST with an Idempotency-Key, again and again until a server
// has answered. Whatever became of the earlier requests, it is booked once.

import { find, update } from "./bookings.js";

const PAUSES = [300, 700, 1500, 3000];

// Stores the booking's token, with which it can be watched; `tell` is called with news.
export async function send(booking, tell) {
  for (let number = 1; ; number += 1) {
    const started = performance.now();
    try {
      const response = await post(booking);
      const link = statusLink(response);
      if (link) return accept(booking, response, link, number, performance.now() - started);
      if (response.status < 500 && response.status !== 429) return refuse(booking, response);
      tell(`answered ${response.status}; it is sent again, with the same key`);
    } catch {
      tell("the connection broke; it is sent again, with the same key");
    }
    await new Promise((wake) => setTimeout(wake, PAUSES[Math.min(number, PAUSES.length) - 1]));
  }
}

function post({ url, key, body }) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": `"${key}"`, Prefer: "respond-async" };
  return fetch(url, { method: "POST", headers, body: JSON.stringify(body), signal: AbortSignal.timeout(10000) });
}

// Every answer of a durable endpoint has the header Link: <…>; rel="status"
function statusLink(response) {
  return response.headers.get("Link")?.match(/<([^>]+)>;\s*rel="?status"?/)?.[1];
}

function accept({ key }, response, link, number, took) {
  const sent = (find(key)?.sent ?? 0) + 1;
  const again = number > 1 ? `, sent ${number} times until a server answered` : "";
  const once = sent > 1 ? `; sent ${sent} times with one key, booked once` : "";
  const fate = `answered ${response.status} after ${(took / 1000).toFixed(2)} s${again}${once}`;
  update(key, { sent, fate, token: new URL(link, location).pathname.split("/").at(-1) });
}

function refuse({ key }, response) {
  update(key, { ended: true, fate: `refused with ${response.status}` });
}
