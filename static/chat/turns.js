// What was said, as it is shown: messages, answers while they come and after, thoughts and calls.

import { rendered } from "./markdown.js";

const RENDER_MS = 60;
const SHORTEST_RATE_S = 0.5;

export function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function button(label, does, className = "link") {
  const node = element("button", className, label);
  node.type = "button";
  node.addEventListener("click", does);
  return node;
}

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** A button that puts a text into the clipboard, and says so. */
function copier(label, text) {
  const node = button(label, async () => {
    try {
      await navigator.clipboard.writeText(text());
      node.textContent = "Copied";
    } catch {
      node.textContent = "Not allowed";
    }
    setTimeout(() => (node.textContent = label), 1500);
  });
  return node;
}

/** A message of somebody's own, or what a call returned. */
export function said(turn, edit) {
  const node = element("div", "turn user");
  const text = element("div", "text", turn.content);
  text.dir = "auto";
  if (turn.role === "tool") node.append(element("p", "label", `${turn.name} returned`));
  node.append(text);
  const actions = element("p", "actions");
  actions.append(copier("Copy", () => turn.content));
  if (turn.role === "user") actions.append(button("Edit", edit));
  node.append(actions);
  return node;
}

/** A call's arguments for people: indented once they are whole, and as they have come until then. */
function readable(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

/** A thought, folded once it is over, unless its reader has opened or folded it. */
class Thought {
  constructor(text = "") {
    this.text = text;
    this.tokens = 0;
    this.node = element("details", "reasoning");
    this.title = element("summary", "", "Thought");
    this.body = element("div", "");
    this.body.dir = "auto";
    this.body.tabIndex = 0;
    this.node.append(this.title, this.body);
    this.isChosen = false;
    this.title.addEventListener("click", () => (this.isChosen = true));
    this.body.textContent = text.trim();
    this.node.hidden = !text;
  }

  feed(text) {
    this.began ??= performance.now();
    this.text += text;
    this.tokens += 1;
  }

  /** Something else has begun, or nothing more comes. */
  end() {
    if (this.text) this.ended ??= performance.now();
  }

  draw(tokens) {
    this.node.hidden = !this.text;
    if (!this.text) return;
    const isOver = this.ended !== undefined;
    if (!this.isChosen) this.node.open = !isOver;
    const seconds = ((this.ended ?? performance.now()) - this.began) / 1000;
    const took = seconds < 10 ? seconds.toFixed(1) : Math.round(seconds);
    this.title.textContent = `${isOver ? "Thought for" : "Thinking,"} ${took} s · ${count(tokens ?? this.tokens, "token")}`;
    const follows = this.body.scrollHeight - this.body.scrollTop - this.body.clientHeight < 60;
    this.body.textContent = this.text.trim();
    if (follows && !isOver) this.body.scrollTop = this.body.scrollHeight;
  }
}

/** A call of a function, or of a custom tool, whose input is a free text. Nothing here answers it: open until somebody does. */
class Call {
  constructor() {
    this.id = "";
    this.name = "";
    this.input = "";
    this.isCustom = false;
    this.node = element("details", "call");
    this.node.open = true;
    this.title = element("summary", "call-name");
    this.body = element("pre", "");
    this.body.tabIndex = 0;
    this.node.append(this.title, this.body);
  }

  feed({ id, function: called, custom }) {
    this.id ||= id;
    this.isCustom ||= custom !== undefined;
    this.name ||= (custom ?? called)?.name ?? "";
    this.input += custom?.input ?? called?.arguments ?? "";
  }

  /** As it goes back to the server with the conversation. */
  get sent() {
    if (this.isCustom) return { id: this.id, type: "custom", custom: { name: this.name, input: this.input } };
    return { id: this.id, type: "function", function: { name: this.name, arguments: this.input } };
  }

  draw() {
    this.title.textContent = `Calls ${this.name}`;
    this.body.textContent = this.isCustom ? this.input : readable(this.input);
  }
}

/** The name of a call as it is kept. */
export const calledName = (call) => (call.custom ?? call.function).name;

/** An answer: `feed` it chunks and `end` it, or make it of a `turn` that is over. */
export class Answer {
  constructor({ again, onDrawn = () => {}, turn }) {
    this.text = turn?.content ?? "";
    this.calls = [];
    this.id = turn?.id;
    this.isWhole = false;
    this.usage = null;
    this.reasoningTokens = null;
    this.deltas = 0;
    this.began = performance.now();
    this.first = null;
    this.drawn = 0;
    this.timer = null;
    this.waiting = "";
    this.isOver = turn !== undefined;
    this.onDrawn = onDrawn;
    this.node = element("div", "turn assistant");
    this.box = element("div", "text waiting");
    this.box.dir = "auto";
    this.meter = element("p", "meter", turn?.meter);
    this.thought = new Thought(turn?.thought);
    this.called = element("div", "calls");
    this.actions = element("p", "actions");
    this.copy = copier("Copy", () => this.text);
    this.again = button("Try again", again, "link again");
    this.link = element("a", "", "On /status");
    this.actions.append(this.copy, this.again, this.link);
    this.node.append(this.thought.node, this.box, this.called, this.meter, this.actions);
    for (const [index, call] of (turn?.calls ?? []).entries()) this.#call(index).feed(call);
    this.actions.hidden = true;
    if (this.isOver) this.#drawText();
  }

  feed(chunk) {
    this.id ??= chunk.id;
    this.usage = chunk.usage ?? this.usage;
    this.reasoningTokens = chunk.usage?.completion_tokens_details?.reasoning_tokens ?? this.reasoningTokens;
    if (chunk.queue_progress) this.waitsBecause(placeText(chunk.queue_progress));
    if (chunk.prompt_progress) this.waitsBecause(readingText(chunk.prompt_progress));
    const reason = chunk.choices?.[0]?.finish_reason;
    if (reason === "length") this.endsBecause = "cut at the length limit";
    this.isWhole ||= reason === "tool_calls" || reason === "stop";
    const delta = chunk.choices?.[0]?.delta ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    const calls = delta.tool_calls ?? [];
    if (!delta.content && !thought && !calls.length) return;
    this.first ??= performance.now();
    this.deltas += 1;
    this.last = performance.now();
    this.text += delta.content ?? "";
    if (thought) this.thought.feed(thought);
    else this.thought.end();
    for (const call of calls) this.#call(call.index).feed(call);
    this.draw();
  }

  /** Whether anything has come that somebody would want to keep. */
  get saysSomething() {
    return Boolean(this.text || this.thought.text || this.calls.length);
  }

  /** Say what it waits for, until it says something itself. */
  waitsBecause(text) {
    this.waiting = text;
    this.waitingSince = performance.now();
    if (this.first === null) this.meter.textContent = text;
  }

  /** Once a second: whoever waits and hears nothing sees at least that time passes. */
  tick() {
    if (this.first !== null || this.isOver) return;
    const isNews = this.waiting && performance.now() - this.waitingSince < 5000;
    if (!isNews) this.meter.textContent = `waiting, ${Math.round((performance.now() - this.began) / 1000)} s`;
  }

  /** Nothing more comes, for the reason given where it is not the model's own. */
  end(reason) {
    this.isOver = true;
    this.endsBecause = reason ?? this.endsBecause;
    this.thought.end();
    this.drawNow();
  }

  /** As it is kept. A call that has not come whole is none. */
  get turn() {
    const calls = this.isWhole ? this.calls.map((call) => call.sent) : [];
    const meter = this.meter.textContent;
    return { role: "assistant", content: this.text, calls, thought: this.thought.text, meter, id: this.id };
  }

  #call(index) {
    while (this.calls.length <= index) {
      const call = new Call();
      this.calls.push(call);
      this.called.append(call.node);
    }
    return this.calls[index];
  }

  /** At once, or in a moment where it was drawn just now: rendering is quadratic in the length otherwise. */
  draw() {
    const due = this.drawn + RENDER_MS - performance.now();
    if (this.timer === null) this.timer = setTimeout(() => this.drawNow(), Math.max(0, due));
  }

  drawNow() {
    clearTimeout(this.timer);
    this.timer = null;
    this.#drawText();
    this.thought.draw(this.reasoningTokens);
    this.meter.textContent = this.#meterText();
    this.drawn = performance.now();
    this.onDrawn();
  }

  #drawText() {
    this.box.classList.toggle("waiting", !this.saysSomething && !this.isOver);
    this.box.hidden = !this.text && (this.isOver || this.saysSomething);
    this.box.replaceChildren(rendered(this.text));
    for (const call of this.calls) call.draw();
    if (!this.isOver) return;
    for (const block of this.box.querySelectorAll("pre")) {
      const code = block.textContent;
      block.tabIndex = 0;
      const frame = element("div", "code");
      block.replaceWith(frame);
      frame.append(copier("Copy", () => code), block);
    }
    this.actions.hidden = !this.saysSomething;
    this.copy.hidden = !this.text;
    this.link.hidden = !this.id;
    if (this.id) this.link.href = `status#${encodeURIComponent(this.id)}`;
  }

  #meterText() {
    if (this.first === null) return this.endsBecause ?? (this.isOver ? "" : this.waiting);
    const tokens = this.usage?.completion_tokens;
    const seconds = (this.last - this.first) / 1000;
    const rate = seconds >= SHORTEST_RATE_S && tokens > 1 ? `${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    const first = `first after ${duration(this.first - this.began)}`;
    const prompt = this.usage?.prompt_tokens;
    const cached = this.usage?.prompt_tokens_details?.cached_tokens;
    const read = prompt ? `prompt ${prompt.toLocaleString("en")}${cached ? `, ${cached.toLocaleString("en")} of it cached` : ""}` : "";
    // Until the server has counted, what comes is pieces of one token or more.
    const length = tokens === undefined ? `${this.deltas}+ tokens` : count(tokens, "token");
    return [length, rate, first, read, this.endsBecause].filter(Boolean).join(" · ");
  }
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function placeText({ position, eta_s }) {
  const place = position === 0 ? "next in line" : `${position} before you in line`;
  if (eta_s === null) return place;
  const step = eta_s < 10 ? 1 : eta_s < 60 ? 5 : 10;
  return `${place}, about ${Math.max(1, step * Math.round(eta_s / step))} s`;
}

function readingText({ total, cache, processed }) {
  const share = total > cache ? (processed - cache) / (total - cache) : 1;
  return share < 1 ? `reading, ${Math.round(100 * share)} %` : "";
}
