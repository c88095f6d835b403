// The one stream of events: opened, opened again, and missed. A server says something every five seconds, so
// one that has said nothing for twelve is not there, whatever the browser believes of the connection.

const EVENTS = ["rights", "snapshot", "server", "queue", "request", "token", "draft", "finished", "refusals", "bucket"];
const RETRY_MS = 2000;
const SILENCE_MS = 12_000;

export class Connection {
  /** `on` is told: `event(name, data)`, `live()`, `lost(at)` once per loss, and `keyNeeded()`. */
  constructor(on) {
    this.on = on;
    this.heardAt = performance.now();
    this.heardTime = new Date();
    this.isLost = false;
    setInterval(() => this.#listen(), 1000);
  }

  open() {
    this.source?.close();
    this.openedAt = performance.now();
    const source = (this.source = new EventSource("status/events"));
    source.onerror = () => {
      this.#lose();
      // The browser tries again by itself where the connection broke, and gives up where it was refused.
      if (source.readyState === EventSource.CLOSED) void this.#refused(source);
    };
    for (const name of EVENTS) {
      source.addEventListener(name, (message) => {
        this.heardAt = performance.now();
        this.heardTime = new Date();
        this.isLost = false;
        this.on.live();
        this.on.event(name, JSON.parse(message.data));
      });
    }
  }

  #listen() {
    const heardAt = Math.max(this.heardAt, this.openedAt ?? 0);
    if (this.source?.readyState === EventSource.CLOSED || performance.now() - heardAt < SILENCE_MS) return;
    this.#lose();
    this.open();
  }

  #lose() {
    if (this.isLost) return;
    this.isLost = true;
    this.on.lost(this.heardAt, this.heardTime);
  }

  async #refused(source) {
    const status = await fetch("status/json", { method: "HEAD" }).then((answer) => answer.status, () => 0);
    if (source !== this.source) return;
    if (status === 401) this.on.keyNeeded();
    else setTimeout(() => source === this.source && this.open(), RETRY_MS);
  }
}
