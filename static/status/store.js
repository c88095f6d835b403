// The page's picture of the server, kept up to date by events. No DOM here.
//
// `live` are requests by id, `finished` the last ones that are over, whole, with the output they had: it must
// not vanish in the moment it is complete. A snapshot replaces everything but what only this page still knows.

const FINISHED = 24;
const HISTORY = 50;

export class Store {
  constructor() {
    this.server = null;
    this.queue = [];
    this.live = new Map();
    this.finished = new Map();
    this.history = [];
    this.totals = null;
    this.subscribers = null;
  }

  apply(event, data) {
    switch (event) {
      case "snapshot":
        this.#snapshot(data);
        break;
      case "server":
        this.server = data.server;
        this.totals = data.totals;
        this.subscribers = data.subscribers;
        break;
      case "queue":
        this.queue = data.map((place) => ({ ...place, at: performance.now() }));
        break;
      case "request":
        this.#request(data);
        break;
      case "token": {
        const request = this.live.get(data.id);
        if (request) {
          const blocks = ((request.output ??= [])[data.index] ??= []);
          const number = data.block ?? 0;
          while (blocks.length < number) blocks.push({ text: "" });
          blocks[number] ??= { text: "", kind: data.kind, name: data.name };
          blocks[number].text += data.text;
        }
        break;
      }
      case "draft": {
        const request = this.live.get(data.id);
        if (request) request.draft = data;
        break;
      }
      case "finished":
        this.#finish(data);
        break;
    }
  }

  get(id) {
    return this.live.get(id) ?? this.finished.get(id);
  }

  /** Requests whose prompt is being written. */
  preparing() {
    return [...this.live.values()].filter((request) => request.state === "preparing");
  }

  /** The request a lane shows: the one that has it, else the last one that had it. */
  lane(number) {
    for (const request of this.live.values()) if (request.lanes?.includes(number) && !request.left) return request;
    let last;
    for (const request of this.finished.values()) if (request.lanes?.includes(number)) last = request;
    return last;
  }

  #snapshot(data) {
    this.server = data.server;
    this.queue = data.queue.map((place) => ({ ...place, at: performance.now() }));
    this.totals = data.totals;
    this.subscribers = data.subscribers;
    this.history = data.history;
    const known = this.finished;
    this.live = new Map(data.requests.map((request) => [request.id, { ...request, at: performance.now() }]));
    this.finished = new Map();
    const outcomes = new Set(data.history.map((row) => row.id));
    for (const [id, request] of known) if (outcomes.has(id)) this.finished.set(id, request);
    for (const request of data.recent) {
      const merged = { ...this.finished.get(request.id), ...request };
      this.finished.delete(request.id);
      this.finished.set(request.id, merged);
    }
  }

  #request(data) {
    const request = this.live.get(data.id) ?? { id: data.id };
    Object.assign(request, data, { at: performance.now() });
    this.live.set(data.id, request);
  }

  #finish(row) {
    const request = this.live.get(row.id) ?? { id: row.id, lanes: [] };
    this.live.delete(row.id);
    this.finished.delete(row.id);
    this.finished.set(row.id, { ...request, ...row });
    if (this.finished.size > FINISHED) this.finished.delete(this.finished.keys().next().value);
    this.history = [...this.history, row].slice(-HISTORY);
  }
}

/** How long it has taken, by our own clock since the server last said. */
export function totalMs(request) {
  return request.outcome ? request.total_ms : (request.total_ms ?? 0) + performance.now() - request.at;
}
