// A chat on the public API: one streamed request per turn. Stop closes the connection, and that is all it takes.

import DOMPurify from "../vendor/dompurify/purify.es.mjs";
import { marked } from "../vendor/marked/marked.esm.js";

const RENDER_MS = 60;
const FOLLOW_PX = 60;
const FORBIDDEN = ["style", "img", "video", "audio", "form", "input", "button", "iframe", "svg", "math"];

const byId = (id) => document.getElementById(id);
const log = byId("log");
const prompt = byId("prompt");
const send = byId("send");
let messages = [];
let running = null;
/** Calls of the last answer whose results nobody has given yet. */
let open = [];

function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// HTML in an answer is shown, not rendered: it is most likely an example.
marked.use({ gfm: true, breaks: true, renderer: { html: ({ text }) => escaped(text) } });

/** Markdown as nodes. Nothing in it can run, load or look like a part of this page. */
function rendered(markdown) {
  return DOMPurify.sanitize(marked.parse(markdown), {
    RETURN_DOM_FRAGMENT: true,
    RETURN_TRUSTED_TYPE: true,
    FORBID_TAGS: FORBIDDEN,
    FORBID_ATTR: ["style", "class", "id", "name"],
  });
}

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

/** The server's events, one `data:` payload at a time, however the bytes were cut. */
async function* payloads(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) if (frame.startsWith("data: ")) yield frame.slice(6);
  }
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
  constructor() {
    this.text = "";
    this.tokens = 0;
    this.node = element("details", "reasoning");
    this.title = element("summary", "");
    this.body = element("div", "");
    this.body.dir = "auto";
    this.node.append(this.title, this.body);
    this.node.hidden = true;
    this.isChosen = false;
    this.title.addEventListener("click", () => (this.isChosen = true));
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
    this.title.textContent = `${isOver ? "Thought for" : "Thinking,"} ${took} s · ${tokens ?? this.tokens} tokens`;
    const follows = this.body.scrollHeight - this.body.scrollTop - this.body.clientHeight < FOLLOW_PX;
    this.body.textContent = this.text.trim();
    if (follows && !isOver) this.body.scrollTop = this.body.scrollHeight;
  }
}

/** A call of a function, or of a custom tool, whose input is a free text. Nothing here answers it, so it is shown and that is all. */
class Call {
  constructor() {
    this.id = "";
    this.name = "";
    this.input = "";
    this.isCustom = false;
    this.node = element("div", "call");
    this.title = element("p", "call-name");
    this.body = element("pre", "");
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

class Answer {
  constructor() {
    this.text = "";
    this.calls = [];
    this.isWhole = false;
    this.reasoningTokens = null;
    this.tokens = null;
    this.deltas = 0;
    this.began = performance.now();
    this.first = null;
    this.drawn = 0;
    this.timer = null;
    this.waiting = "";
    this.node = element("div", "turn assistant");
    this.box = element("div", "text waiting");
    this.box.dir = "auto";
    this.meter = element("p", "meter");
    this.thought = new Thought();
    this.called = element("div", "calls");
    this.node.append(this.thought.node, this.box, this.called, this.meter);
    log.append(this.node);
  }

  feed(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    this.tokens = chunk.usage?.completion_tokens ?? this.tokens;
    this.reasoningTokens = chunk.usage?.completion_tokens_details?.reasoning_tokens ?? this.reasoningTokens;
    if (chunk.queue_progress) this.waitsBecause(placeText(chunk.queue_progress));
    if (chunk.prompt_progress) this.waitsBecause(readingText(chunk.prompt_progress));
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

  /** Say what it waits for, until it says something itself. */
  waitsBecause(text) {
    this.waiting = text;
    if (this.first === null) this.meter.textContent = text;
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
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < FOLLOW_PX;
    const isSilent = !this.text && !this.thought.text && !this.calls.length;
    this.box.classList.toggle("waiting", isSilent && running !== null);
    this.box.hidden = !this.text && !isSilent;
    this.box.replaceChildren(rendered(this.text));
    this.thought.draw(this.reasoningTokens);
    for (const call of this.calls) call.draw();
    if (this.first !== null) {
      const tokens = this.tokens ?? this.deltas;
      const seconds = (this.last - this.first) / 1000;
      const speed = seconds > 0 && tokens > 1 ? ` · ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
      this.meter.textContent = `${tokens} tokens${speed} · first after ${Math.round(this.first - this.began)} ms${this.end ?? ""}`;
    } else {
      this.meter.textContent = this.end?.slice(3) ?? (running === null ? "" : this.waiting);
    }
    this.drawn = performance.now();
    if (follows) log.scrollTop = log.scrollHeight;
  }
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

/** The tools that somebody has put in; undefined for none. Throws if they are no JSON. */
function toolsGiven() {
  const text = byId("tools").value.trim();
  if (!text) return undefined;
  const given = JSON.parse(text);
  return Array.isArray(given) ? given : [given];
}

function showSaid(text, label) {
  byId("empty").hidden = true;
  const turn = element("div", "turn user");
  const said = element("div", "text", text);
  said.dir = "auto";
  if (label) turn.append(element("p", "label", label));
  turn.append(said);
  log.append(turn);
  log.scrollTop = log.scrollHeight;
}

/** What was typed: the result of a call that waits for one, or else a message. */
function say(text) {
  let tools;
  try {
    tools = toolsGiven();
  } catch (error) {
    fail(`The tools are no JSON: ${error.message}`);
    return;
  }
  prompt.value = "";
  fit();
  const answered = open.shift();
  if (answered) messages.push({ role: "tool", tool_call_id: answered.id, content: text });
  else messages.push({ role: "user", content: text });
  showSaid(text, answered && `${answered.name} returned`);
  invite();
  if (!open.length) void ask(tools);
}

function invite() {
  prompt.placeholder = open.length ? `What ${open[0].name} returned` : "Message";
}

async function ask(tools) {
  const asked = messages.length;
  const answer = new Answer();
  log.scrollTop = log.scrollHeight;
  const abort = (running = new AbortController());
  isRunning(true);
  fail("");
  try {
    const headers = { "Content-Type": "application/json" };
    const key = byId("key").value;
    if (key) headers.Authorization = `Bearer ${key}`;
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers,
      body: JSON.stringify({ model: byId("model").textContent, messages, tools, stream: true, return_progress: true, stream_options: { include_usage: true } }),
      signal: abort.signal,
    });
    if (!response.ok) {
      byId("key-row").hidden = response.status !== 401 && byId("key-row").hidden;
      throw new Error((await response.json()).error.message);
    }
    for await (const payload of payloads(response.body)) {
      if (payload === "[DONE]") break;
      const chunk = JSON.parse(payload);
      answer.feed(chunk);
      const reason = chunk.choices?.[0]?.finish_reason;
      if (reason === "length") answer.end = " · cut at the length limit";
      answer.isWhole ||= reason === "tool_calls" || reason === "stop";
    }
  } catch (error) {
    if (abort.signal.aborted) answer.end = " · stopped";
    else fail(error.message);
  }
  // A conversation that was reset meanwhile is no longer this one's.
  if (running === abort) {
    running = null;
    answer.thought.end();
    remember(answer, asked);
    answer.drawNow();
    isRunning(false);
  }
}

/** Add an answer to the conversation; of one that said nothing, the question goes too. */
function remember(answer, asked) {
  const calls = answer.isWhole ? answer.calls : [];
  if (answer.text || calls.length) {
    const turn = { role: "assistant", content: answer.text || null };
    if (calls.length) turn.tool_calls = calls.map((call) => call.sent);
    if (calls.length && answer.thought.text) turn.reasoning_content = answer.thought.text;
    messages.push(turn);
  } else if (messages[asked - 1].role === "user") {
    messages.pop();
  }
  open = [...calls];
  invite();
}

function isRunning(runs) {
  send.textContent = runs ? "Stop" : "Send";
  send.dataset.does = runs ? "stop" : "send";
  log.setAttribute("aria-busy", String(runs));
}

function fail(message) {
  byId("error").textContent = message;
  byId("error").hidden = !message;
}

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  const text = prompt.value.trim();
  if (!text) return;
  say(text);
});

prompt.addEventListener("input", fit);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !running) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
  if (event.key === "Escape" && running) running.abort();
});

byId("new").addEventListener("click", () => {
  running?.abort();
  running = null;
  messages = [];
  open = [];
  invite();
  for (const turn of log.querySelectorAll(".turn")) turn.remove();
  byId("empty").hidden = false;
  isRunning(false);
  fail("");
  prompt.focus();
});

const listed = await fetch("v1/models").catch(() => null);
if (listed?.ok) byId("model").textContent = (await listed.json()).data[0].id;
else if (listed?.status === 401) byId("key-row").hidden = false;
