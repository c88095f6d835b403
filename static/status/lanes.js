// One lane per slot. A lane's nodes are made once and only their text changes.

import { byId, element, setData, setText, setWidth } from "./dom.js";
import { GRAMMARS, OUTCOMES, STATES, count, duration, isTrouble, rate, shortId, visible } from "./format.js";
import { speedNow, totalMs, unreadMs } from "./store.js";

const TAIL_CHARS = 240;
const COMPACT_SLOTS = 8;
const UNREAD_MS = 1000;

class Lane {
  constructor(number, select) {
    this.number = number;
    this.request = null;
    this.node = element("li", "lane-item");
    this.button = element("button", "lane");
    this.button.type = "button";
    this.button.addEventListener("click", () => this.request && select(this.request.id));
    this.slot = element("span", "lane-number");
    this.slot.append(element("span", "visually-hidden", "Slot "), String(number));
    this.state = element("span", "badge");
    this.unread = element("span", "badge unread");
    this.unread.dataset.phase = "write";
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
    // What changes while it would be read out is for eyes alone: a button is named by its state and its request.
    for (const node of [this.tags, this.speed, this.bar, this.numbers, this.tail]) node.ariaHidden = "true";
    const head = element("span", "lane-head");
    head.append(this.slot, this.state, this.id, this.unread, this.tags, this.speed);
    this.button.append(head, this.bar, this.numbers, this.tail);
    this.node.append(this.button);
  }

  /** `isReading`: somebody's prompt is being computed. `namesModel`: there are several. */
  show(request, selected, isReading, namesModel) {
    this.request = request ?? null;
    this.button.disabled = !request;
    setData(this.button, "state", request ? (request.outcome ? "over" : request.state) : "free");
    this.button.setAttribute("aria-pressed", String(Boolean(request) && request.id === selected));
    this.bar.hidden = this.numbers.hidden = !request;
    const unread = request && unreadMs(request);
    this.unread.hidden = !(unread > UNREAD_MS);
    if (!request) {
      setText(this.state, "free");
      setData(this.state, "phase", "idle");
      for (const node of [this.id, this.tags, this.speed, this.text]) setText(node, "");
      delete this.tags.dataset.tags;
      this.tail.hidden = true;
      return;
    }
    const { outcome } = request;
    if (!this.unread.hidden) setText(this.unread, `client not reading ${duration(100 * Math.round(unread / 100))}`);
    setText(this.state, outcome ? (OUTCOMES[outcome] ?? outcome) : STATES[request.state]);
    setData(this.state, "phase", outcome ? (isTrouble(outcome) ? "bad" : "over") : request.state);
    setText(this.id, shortId(request.id));
    showTags(this.tags, request, namesModel);
    const speed = speedNow(request);
    const prefilling = request.state === "prefill" && !outcome;
    setText(this.speed, prefilling || speed === undefined ? "" : `${rate(speed)} tok/s`);
    const prompt = Math.max(1, request.prompt_tokens);
    setWidth(this.cached, (request.cached_tokens ?? 0) / prompt);
    setWidth(this.done, (request.prefilled_tokens ?? 0) / prompt);
    setText(this.numbers, numbers(request, isReading));
    const text = (request.output ?? []).flat().filter((said) => said?.text).at(-1)?.text ?? "";
    this.tail.hidden = !text;
    setText(this.text, visible(text.slice(-TAIL_CHARS).replaceAll(/\s/g, " ")));
  }
}

function hasBegunPrompt(request) {
  return request.state === "prefill" && request.prefilled_tokens > 0;
}

function numbers(request, isReading) {
  const prompt = request.prompt_tokens ?? 0;
  const done = (request.cached_tokens ?? 0) + (request.prefilled_tokens ?? 0);
  const parts = [duration(totalMs(request))];
  if (request.completion_tokens) parts.push(`${count(request.completion_tokens)} out`);
  parts.push(done < prompt && !request.outcome ? `${count(done)} of ${count(prompt)} prompt` : `${count(prompt)} prompt`);
  if (request.cached_tokens) parts.push(`${count(request.cached_tokens)} cached`);
  if (isReading && request.state === "prefill" && !request.outcome && !hasBegunPrompt(request)) parts.push("waits for other prompts");
  if (request.ttft_ms !== undefined) parts.push(`TTFT ${duration(request.ttft_ms)}`);
  return parts.join(" · ");
}

function showTags(node, request, namesModel) {
  const flags = request.flags ?? {};
  const tags = [];
  if (request.cached_tokens) tags.push("cache hit");
  if (request.drafted || flags.spec_decode) tags.push("spec decode");
  if (flags.stream) tags.push("stream");
  if (flags.tools) tags.push("tools");
  if (flags.structured) tags.push(GRAMMARS[request.params?.grammar] ?? "structured");
  if (request.doing && !request.outcome) tags.push(request.doing);
  if (request.api && request.api !== "chat") tags.unshift(request.api);
  if (namesModel && request.model) tags.unshift(visible(request.model));
  const wanted = tags.join("|");
  if (node.dataset.tags === wanted) return;
  node.dataset.tags = wanted;
  node.replaceChildren(...tags.map((tag) => element("span", "tag", tag)));
}

export class Lanes {
  constructor(select) {
    this.select = select;
    this.lanes = [];
    this.list = byId("lanes");
  }

  show(store, selected) {
    const slots = Math.max(store.server.slots, ...[...store.live.values()].flatMap((request) => request.lanes ?? []).map((lane) => lane + 1));
    if (this.lanes.length !== slots) {
      this.lanes = Array.from({ length: slots }, (_, number) => new Lane(number, this.select));
      this.list.replaceChildren(...this.lanes.map((lane) => lane.node));
      setData(this.list, "compact", String(slots >= COMPACT_SLOTS));
    }
    let used = 0;
    const isReading = [...store.live.values()].some(hasBegunPrompt);
    for (const lane of this.lanes) {
      const request = store.lane(lane.number);
      if (request && !request.outcome) used += 1;
      lane.show(request, selected, isReading, store.areSeveral);
    }
    setText(byId("slots-used"), `${used} of ${store.server.slots} in use`);
  }
}
