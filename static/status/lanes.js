// One lane per slot, and the queue. A lane's nodes are made once and only their text changes.

import { byId, element, setData, setText, setWidth } from "./dom.js";
import { GRAMMARS, OUTCOMES, STATES, count, duration, isTrouble, rate, shortId } from "./format.js";
import { totalMs } from "./store.js";

const TAIL_CHARS = 240;

class Lane {
  constructor(number, select) {
    this.number = number;
    this.request = null;
    this.node = element("li", "lane-item");
    this.button = element("button", "lane");
    this.button.type = "button";
    this.button.addEventListener("click", () => this.request && select(this.request.id));
    this.slot = element("span", "lane-number", String(number));
    this.state = element("span", "badge");
    this.id = element("span", "lane-id");
    this.tags = element("span", "tags");
    this.speed = element("span", "lane-speed");
    this.bar = element("span", "bar");
    this.cached = element("span", "bar-cached");
    this.done = element("span", "bar-done");
    this.bar.append(this.cached, this.done);
    this.numbers = element("span", "lane-numbers");
    this.tail = element("span", "lane-tail");
    this.text = element("span");
    this.tail.append(this.text);
    const head = element("span", "lane-head");
    head.append(this.slot, this.state, this.id, this.tags, this.speed);
    this.button.append(head, this.bar, this.numbers, this.tail);
    this.node.append(this.button);
  }

  show(request, selected) {
    this.request = request ?? null;
    this.button.disabled = !request;
    setData(this.button, "state", request ? (request.outcome ? "over" : request.state) : "free");
    this.button.setAttribute("aria-pressed", String(Boolean(request) && request.id === selected));
    this.bar.hidden = this.numbers.hidden = !request;
    if (!request) {
      setText(this.state, "free");
      setData(this.state, "phase", "idle");
      for (const node of [this.id, this.tags, this.speed, this.text]) setText(node, "");
      this.tail.hidden = true;
      return;
    }
    const { outcome } = request;
    setText(this.state, outcome ? (OUTCOMES[outcome] ?? outcome) : STATES[request.state]);
    setData(this.state, "phase", outcome ? (isTrouble(outcome) ? "bad" : "over") : request.state);
    setText(this.id, shortId(request.id));
    showTags(this.tags, request);
    const prefilling = request.state === "prefill" && !outcome;
    setText(this.speed, prefilling || request.decode_tok_s === undefined ? "" : `${rate(request.decode_tok_s)} tok/s`);
    const prompt = Math.max(1, request.prompt_tokens);
    setWidth(this.cached, (request.cached_tokens ?? 0) / prompt);
    setWidth(this.done, (request.prefilled_tokens ?? 0) / prompt);
    setText(this.numbers, numbers(request));
    const text = (request.output ?? []).flat().filter((said) => said?.text).at(-1)?.text ?? "";
    this.tail.hidden = !text;
    setText(this.text, text.slice(-TAIL_CHARS).replaceAll(/\s/g, " "));
  }
}

function numbers(request) {
  const prompt = request.prompt_tokens;
  const done = (request.cached_tokens ?? 0) + (request.prefilled_tokens ?? 0);
  const parts = [done < prompt && !request.outcome ? `${count(done)} of ${count(prompt)} prompt` : `${count(prompt)} prompt`];
  if (request.cached_tokens) parts.push(`${count(request.cached_tokens)} cached`);
  if (request.completion_tokens) parts.push(`${count(request.completion_tokens)} out`);
  if (request.ttft_ms !== undefined) parts.push(`TTFT ${duration(request.ttft_ms)}`);
  parts.push(duration(totalMs(request)));
  return parts.join(" · ");
}

export function showTags(node, request) {
  const flags = request.flags ?? {};
  const tags = [];
  if (request.cached_tokens) tags.push("cache hit");
  if (request.drafted || flags.spec_decode) tags.push("spec decode");
  if (flags.stream) tags.push("stream");
  if (flags.tools) tags.push("tools");
  if (flags.structured) tags.push(GRAMMARS[request.params?.grammar] ?? "structured");
  if (request.doing && !request.outcome) tags.push(request.doing);
  if (request.api && request.api !== "chat") tags.unshift(request.api);
  const wanted = tags.join("|");
  if (node.dataset.tags === wanted) return;
  node.dataset.tags = wanted;
  node.replaceChildren(...tags.map((tag) => element("span", "tag", tag)));
}

// Counts down between what the server says, and is no finer than an estimate can be.
function waitText(eta_s, at) {
  if (eta_s === undefined) return "no estimate yet";
  const left = eta_s - (performance.now() - at) / 1000;
  if (left < 1.5) return "slot in a moment";
  const step = left < 10 ? 1 : left < 60 ? 5 : 10;
  return `slot in about ${duration(1000 * step * Math.round(left / step))}`;
}

export class Lanes {
  constructor(select) {
    this.select = select;
    this.lanes = [];
    this.list = byId("lanes");
  }

  show(store, selected) {
    const slots = store.server.slots;
    if (this.lanes.length !== slots) {
      this.lanes = Array.from({ length: slots }, (_, number) => new Lane(number, this.select));
      this.list.replaceChildren(...this.lanes.map((lane) => lane.node));
    }
    let used = 0;
    for (const lane of this.lanes) {
      const request = store.lane(lane.number);
      if (request && !request.outcome) used += 1;
      lane.show(request, selected);
    }
    setText(byId("slots-used"), `${used} of ${slots} in use`);
    this.showQueue(store, selected);
  }

  showQueue(store, selected) {
    const rows = [...store.queue.map(place), ...store.preparing().map(preparing)];
    byId("queue-block").hidden = rows.length === 0;
    const counts = [`${store.queue.length} waiting`];
    if (rows.length > store.queue.length) counts.push(`${rows.length - store.queue.length} preparing`);
    setText(byId("queue-count"), counts.join(" · "));
    const list = byId("queue");
    while (list.children.length > rows.length) list.lastElementChild.remove();
    while (list.children.length < rows.length) {
      const item = element("li");
      const button = element("button", "place");
      button.type = "button";
      button.append(element("span", "place-number"), element("span", "lane-id"), element("span", "place-wait"), element("span", "dim"));
      button.addEventListener("click", () => this.select(button.dataset.id));
      item.append(button);
      list.append(item);
    }
    rows.forEach((row, index) => {
      const button = list.children[index].firstElementChild;
      const [number, id, waited, rest] = button.children;
      setData(button, "id", row.id);
      button.setAttribute("aria-pressed", String(row.id === selected));
      setText(number, row.number);
      setText(id, shortId(row.id));
      setText(waited, row.waited);
      setText(rest, row.rest);
    });
  }
}

function place({ id, position, waited_s, eta_s, at }) {
  return {
    id,
    number: position + 1,
    waited: `waits ${duration(1000 * waited_s + performance.now() - at)}`,
    rest: waitText(eta_s, at),
  };
}

/** Its prompt is being written: it has no place in line yet. */
function preparing(request) {
  return { id: request.id, number: "·", waited: `${STATES.preparing} ${duration(totalMs(request))}`, rest: "" };
}
