// The page's picture of the server, kept up to date by events. No DOM here.
//
// `live` are requests by id, `finished` the last ones that are over, whole, with the output they had: it must
// not vanish in the moment it is complete. A snapshot replaces everything but what only this page still knows.

import { now } from "./clock.js";

const FINISHED = 24;
const HISTORY = 100;
const REFUSALS = 50;
const BUCKETS = 360;
const RECENT_MS = 2000;

export class Store {
  constructor() {
    this.rights = { may_stop: true };
    this.server = null;
    this.load = null;
    this.queue = [];
    this.live = new Map();
    this.finished = new Map();
    this.history = [];
    this.refusals = [];
    this.hour = { bucket_s: 10, columns: { at: [] } };
    this.totals = null;
    /** The engines behind this one; none where it computes itself. */
    this.replicas = [];
    /** Each by itself, where there are several or one that comes and goes. */
    this.models = [];
    this.subscribers = null;
  }

  apply(event, data) {
    switch (event) {
      case "rights":
        this.rights = data;
        break;
      case "snapshot":
        this.#snapshot(data);
        break;
      case "server":
        this.#server(data);
        break;
      case "queue":
        this.#queue(data);
        break;
      case "request":
        this.#request(data);
        break;
      case "token":
        this.#token(data);
        break;
      case "draft": {
        const request = this.live.get(data.id);
        if (request) request.draft = data;
        break;
      }
      case "finished":
        this.#finish(data);
        break;
      case "refusals":
        this.refusals = [...this.refusals, ...data].slice(-REFUSALS);
        break;
      case "bucket":
        this.#bucket(data);
        break;
    }
  }

  get(id) {
    return this.live.get(id) ?? this.finished.get(id) ?? this.history.find((row) => row.id === id);
  }

  /** Whether it matters which model a request is for. */
  get areSeveral() {
    return this.models.length > 1;
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

  #server({ server, load, totals, subscribers, replicas = [], models = [] }) {
    Object.assign(this, { server: { ...server, at: now() }, load, totals, subscribers, replicas, models });
  }

  #queue(places) {
    this.queue = places.map((place) => ({ ...place, at: now() }));
  }

  #snapshot(data) {
    this.#server(data);
    this.#queue(data.queue);
    this.history = data.history;
    this.refusals = data.refusals;
    this.hour = data.hour;
    const known = this.finished;
    this.live = new Map(data.requests.map((request) => [request.id, { ...request, at: now(), said: [] }]));
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
    const request = this.live.get(data.id) ?? { id: data.id, lanes: [], said: [] };
    Object.assign(request, data);
    if (data.total_ms !== undefined) request.at = now();
    if (data.write_ms) request.writeAt = now();
    if (data.completion_tokens) {
      request.said.push([now(), data.completion_tokens]);
      while (request.said.length > 2 && request.said[1][0] <= now() - RECENT_MS) request.said.shift();
    }
    this.live.set(data.id, request);
  }

  #token(data) {
    const request = this.live.get(data.id);
    if (!request) return;
    const blocks = ((request.output ??= [])[data.index] ??= []);
    const number = data.block ?? 0;
    while (blocks.length < number) blocks.push({ text: "" });
    blocks[number] ??= { text: "", kind: data.kind, name: data.name };
    blocks[number].text += data.text;
  }

  #finish(row) {
    const request = this.live.get(row.id) ?? { id: row.id, lanes: [] };
    this.live.delete(row.id);
    this.finished.delete(row.id);
    this.finished.set(row.id, { ...request, ...row });
    if (this.finished.size > FINISHED) this.finished.delete(this.finished.keys().next().value);
    this.history = [...this.history, row].slice(-HISTORY);
  }

  #bucket(bucket) {
    const { columns } = this.hour;
    const grown = Object.keys(bucket).map((name) => [name, [...(columns[name] ?? []), bucket[name]].slice(-BUCKETS)]);
    this.hour = { ...this.hour, columns: Object.fromEntries(grown) };
  }
}

/** How long it has taken, by our own clock since the server last said. */
export function totalMs(request) {
  return request.outcome ? request.total_ms : (request.total_ms ?? 0) + now() - (request.at ?? now());
}

export function uptimeMs(server) {
  return 1000 * server.uptime_s + now() - server.at;
}

/** How long its client has let a write wait; undefined while it reads. */
export function unreadMs(request) {
  if (request.outcome) return undefined;
  if (request.write_ms) return request.write_ms + now() - request.writeAt;
  return undefined;
}

/** Tokens per second over the last two seconds, or on average while nothing else is known. */
export function speedNow(request) {
  if (request.outcome || !request.said || request.said.length < 2) return request.decode_tok_s;
  const [first, last] = [request.said[0], request.said.at(-1)];
  const passed = Math.max(last[0], now() - RECENT_MS / 4) - first[0];
  return passed < RECENT_MS / 4 ? request.decode_tok_s : (1000 * (last[1] - first[1])) / passed;
}
