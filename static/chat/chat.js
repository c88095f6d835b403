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

class Answer {
  constructor() {
    this.text = "";
    this.reasoning = "";
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
    this.thoughts = element("details", "reasoning");
    this.thoughts.hidden = true;
    this.thoughts.append(element("summary", "", "Reasoning"), element("div", ""));
    this.node.append(this.thoughts, this.box, this.meter);
    log.append(this.node);
  }

  feed(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    this.tokens = chunk.usage?.completion_tokens ?? this.tokens;
    if (chunk.queue_progress) this.waitsBecause(placeText(chunk.queue_progress));
    if (chunk.prompt_progress) this.waitsBecause(readingText(chunk.prompt_progress));
    const delta = chunk.choices?.[0]?.delta ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    if (!delta.content && !thought) return;
    this.first ??= performance.now();
    this.deltas += 1;
    this.last = performance.now();
    this.text += delta.content ?? "";
    this.reasoning += thought;
    this.draw();
  }

  /** Say what it waits for, until it says something itself. */
  waitsBecause(text) {
    this.waiting = text;
    if (this.first === null) this.meter.textContent = text;
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
    this.box.classList.toggle("waiting", !this.text && running !== null);
    this.box.replaceChildren(rendered(this.text));
    this.thoughts.hidden = !this.reasoning;
    this.thoughts.lastElementChild.textContent = this.reasoning;
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

async function ask(text) {
  messages.push({ role: "user", content: text });
  byId("empty").hidden = true;
  const turn = element("div", "turn user");
  const said = element("div", "text", text);
  said.dir = "auto";
  turn.append(said);
  log.append(turn);
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
      body: JSON.stringify({ model: byId("model").textContent, messages, stream: true, return_progress: true, stream_options: { include_usage: true } }),
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
      if (chunk.choices?.[0]?.finish_reason === "length") answer.end = " · cut at the length limit";
    }
  } catch (error) {
    if (abort.signal.aborted) answer.end = " · stopped";
    else fail(error.message);
  }
  // A conversation that was reset meanwhile is no longer this one's.
  if (running === abort) {
    running = null;
    if (answer.text) messages.push({ role: "assistant", content: answer.text });
    else messages.pop();
    answer.drawNow();
    isRunning(false);
  }
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
  prompt.value = "";
  fit();
  void ask(text);
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
  for (const turn of log.querySelectorAll(".turn")) turn.remove();
  byId("empty").hidden = false;
  isRunning(false);
  fail("");
  prompt.focus();
});

const listed = await fetch("v1/models").catch(() => null);
if (listed?.ok) byId("model").textContent = (await listed.json()).data[0].id;
else if (listed?.status === 401) byId("key-row").hidden = false;
