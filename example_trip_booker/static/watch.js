// Follows an execution by its stream of events, or by its status document if there is no stream.

const LOOK_EVERY = 1000;
const STREAM_LASTS = 19000; // a stream that closes after that was not broken
const ENDED = ["completed", "failed", "cancelled"];

export class Watch {
  // `changed` is called whenever there is news.
  constructor(url, changed) {
    this.url = url;
    this.changed = changed;
    this.execution = null;
    this.steps = new Map();
    this.lines = [];
    this.seen = new Set();
    this.answer = null;
    this.missing = false;
    this.away = false;
    this.misses = 0;
    this.stopped = false;
  }

  start() {
    this.look();
  }

  stop() {
    this.stopped = true;
    this.stream?.close();
    clearTimeout(this.timer);
  }

  get ended() {
    return ENDED.includes(this.execution?.status);
  }

  // Asks for the status document, unless the stream is open. The first one has the stream's address.
  async look() {
    if (this.stopped) return;
    if (this.stream?.readyState !== EventSource.OPEN) await this.ask();
    if (this.stopped || this.missing || (this.ended && this.answer)) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), LOOK_EVERY);
  }

  async ask() {
    try {
      const response = await fetch(this.url, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(8000) });
      if (response.status === 404) this.missing = true;
      else if (!response.ok) throw new Error(response.status);
      else await this.take(await response.json());
      this.misses = 0;
      this.away = false;
    } catch {
      this.misses += 1;
      this.away = true;
    }
    if (!this.stopped) this.changed();
  }

  async take({ steps, ...execution }) {
    this.note(execution);
    for (const step of steps) this.steps.set(step.id, step);
    if (!this.ended) this.open(here(execution.events_url));
    else await this.fetchAnswer();
  }

  // Documents and events may arrive in any order: never go back to an earlier attempt, or from an end.
  note(execution) {
    const known = this.execution;
    if (known && (this.ended || execution.attempt < known.attempt)) return;
    this.execution = { ...known, ...execution };
  }

  open(url) {
    if (this.stream && this.stream.readyState !== EventSource.CLOSED) return;
    const stream = new EventSource(url);
    this.stream = stream;
    let since = 0;
    stream.onopen = () => {
      since = performance.now();
      this.away = false;
      this.changed();
    };
    stream.onerror = () => {
      const broken = since && performance.now() - since < STREAM_LASTS;
      if (broken && !this.ended) this.away = true;
      this.changed();
      this.look();
    };
    const on = (name, act) =>
      stream.addEventListener(name, (event) => {
        if (this.stopped) return;
        act(JSON.parse(event.data), event.lastEventId);
        this.changed();
      });
    on("execution", (execution) => this.note(execution));
    on("step", (step) => this.steps.set(step.id, step));
    on("progress", (line, id) => this.say(line, id));
    on("end", () => this.end());
  }

  // After a broken connection the stream may repeat a message.
  say(line, id) {
    const key = `${id.split("-")[0]} ${line.message}`;
    if (this.seen.has(key)) return;
    this.seen.add(key);
    this.lines.push(line);
  }

  async end() {
    this.stream.close();
    await this.ask();
    this.look();
  }

  async fetchAnswer() {
    if (this.answer) return;
    const response = await fetch(here(this.execution.response_url));
    this.answer = { status: response.status, text: response.statusText, body: await response.text() };
    await this.readLines();
    this.stream?.close();
  }

  // Whoever opens the page after the end can still read the progress messages.
  async readLines() {
    if (this.lines.length) return;
    const text = await (await fetch(here(this.execution.events_url))).text();
    for (const block of text.split("\n\n")) {
      const fields = Object.fromEntries(block.split("\n").map((line) => [line.split(":", 1)[0], line.slice(line.indexOf(":") + 2)]));
      if (fields.event === "progress") this.say(JSON.parse(fields.data), fields.id);
    }
  }
}

// Links are absolute, but the page may have been loaded by another name of the same server.
export function here(url) {
  const { pathname, search } = new URL(url, location);
  return pathname + search;
}
