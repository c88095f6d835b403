// A chat on the public API: one streamed request per turn. Stop closes the connection, and that is all it takes.

import { Conversation } from "./conversation.js";
import { quoted } from "./files.js";
import { Options } from "./options.js";
import { answerTo, BrokeOff, Refused } from "./stream.js";
import { Answer, button, calledName, count, said } from "./turns.js";

const FOLLOW_PX = 60;
/** Requests that a full queue may refuse before somebody has to press a button. */
const RETRIES = 10;

const byId = (id) => document.getElementById(id);
const log = byId("log");
const prompt = byId("prompt");
const send = byId("send");
const conversation = new Conversation();
const options = new Options();
/** Nodes of the conversation's turns, in their order. */
let nodes = [];
let running = null;
/** The turn that is being edited, by its index; null for none. */
let editing = null;
let contextTokens = null;
/** The answer that comes just now. */
let unfinished = null;

const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < FOLLOW_PX;
let follows = true;

function scrollToEnd() {
  log.scrollTop = log.scrollHeight;
  follows = true;
  byId("latest").hidden = true;
}

function drawn() {
  if (follows) log.scrollTop = log.scrollHeight;
  byId("latest").hidden = isAtEnd();
}

function show(node) {
  byId("empty").hidden = true;
  nodes.push(node);
  byId("turns").append(node);
  scrollToEnd();
}

function showTurn(turn) {
  if (turn.role === "assistant") {
    const answer = new Answer({ again, turn });
    show(answer.node);
    return answer;
  }
  const node = said(turn, () => edit(nodes.indexOf(node)));
  show(node);
  return null;
}

function showAll() {
  for (const node of nodes) node.remove();
  nodes = [];
  byId("empty").hidden = conversation.turns.length > 0;
  for (const turn of conversation.turns) showTurn(turn);
  showContext(conversation.turns.findLast((turn) => turn.total)?.total);
  invite();
}

function cut(index) {
  conversation.cut(index);
  for (const node of nodes.splice(index)) node.remove();
  byId("empty").hidden = conversation.turns.length > 0;
}

/** What went wrong, or was done, and what can be done about it: [label, action] of each way. */
function tell(message, ...ways) {
  byId("error").textContent = message;
  byId("error").hidden = !message;
  byId("ways").replaceChildren(...ways.map(([label, does]) => button(label, does, "button")));
  byId("ways").hidden = !ways.length;
}

function isRunning(runs) {
  send.textContent = runs ? "Stop" : "Send";
  send.dataset.does = runs ? "stop" : "send";
  log.setAttribute("aria-busy", String(runs));
}

function invite() {
  const [call] = conversation.open;
  prompt.placeholder = call ? `What ${calledName(call)} returned` : "Message";
  const calls = [...byId("turns").querySelectorAll("details.call")];
  for (const node of calls.slice(0, calls.length - conversation.open.length)) node.open = false;
  byId("editing").hidden = editing === null;
}

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

function write(text) {
  prompt.value = text;
  fit();
}

function showContext(total) {
  const box = byId("context");
  box.hidden = !total || !contextTokens;
  if (box.hidden) return;
  byId("context-meter").max = contextTokens;
  byId("context-meter").high = 0.8 * contextTokens;
  byId("context-meter").value = total;
  byId("context-text").textContent = `context ${total.toLocaleString("en")} of ${count(contextTokens, "token")}`;
}

/** What was typed: the result of a call that waits for one, or else a message. */
function say(text) {
  try {
    options.read();
  } catch (error) {
    tell(error.message);
    return;
  }
  write("");
  if (editing !== null) cut(editing);
  editing = null;
  const [call] = conversation.open;
  const turn = call ? { role: "tool", content: text, callId: call.id, name: calledName(call) } : { role: "user", content: text };
  conversation.add(turn);
  showTurn(turn);
  invite();
  if (!conversation.open.length) void ask();
}

function edit(index) {
  stop();
  editing = index;
  write(conversation.turns[index].content);
  invite();
  prompt.focus();
}

/** The last answer once more. */
function again() {
  stop();
  if (conversation.last?.role === "assistant") cut(conversation.turns.length - 1);
  void ask();
}

function stop() {
  running?.abort();
}

/** Ask for an answer to the conversation as it is; `tries` is how many times a full queue has refused it. */
async function ask(tries = 0) {
  tell("");
  const answer = new Answer({ again, onDrawn: drawn });
  show(answer.node);
  const abort = (running = new AbortController());
  const isCurrent = () => running === abort;
  isRunning(true);
  const clock = setInterval(() => answer.tick(), 1000);
  let failure = null;
  try {
    const request = {
      model: byId("model").textContent,
      messages: conversation.messages(options.system),
      stream: true,
      return_progress: true,
      stream_options: { include_usage: true },
      ...options.read(),
    };
    unfinished = answer;
    for await (const chunk of answerTo(request, byId("key").value, abort.signal)) {
      if (chunk.queue_progress) speak(`${chunk.queue_progress.position} before you in line`);
      answer.feed(chunk);
    }
  } catch (error) {
    failure = error;
  } finally {
    clearInterval(clock);
    unfinished = null;
  }
  if (!isCurrent()) return; // the conversation was begun anew
  running = null;
  isRunning(false);
  if (abort.signal.aborted) answer.end("stopped");
  else answer.end(failure && (failure instanceof BrokeOff ? "broke off" : "failed"));
  keepAnswer(answer);
  if (failure && !abort.signal.aborted) explain(failure, answer, tries);
  else if (!abort.signal.aborted && answer.endsBecause) lengthReached(answer);
  else if (!answer.saysSomething) tell("Stopped: the message has no answer.", ["Send again", () => void ask()]);
}

function keepAnswer(answer) {
  if (!answer.saysSomething) {
    nodes.pop();
    answer.node.remove();
    invite();
    return;
  }
  conversation.add({ ...answer.turn, total: answer.usage?.total_tokens });
  if (answer.usage) showContext(answer.usage.total_tokens);
  speak(answer.text);
  invite();
}

/** Say it to those who hear the page: once, when there is something to say, not with every token. */
function speak(text) {
  if (byId("spoken").textContent !== text) byId("spoken").textContent = text;
}

function explain(failure, answer, tries) {
  const retry = ["Send again", () => void ask()];
  if (answer.saysSomething) {
    tell(failure.message, ["Try again", again]);
  } else if (failure.code === "context_length_exceeded") {
    makeRoom(failure.message);
  } else if (failure instanceof Refused && failure.status === 401) {
    byId("key-row").hidden = false;
    tell(failure.message, retry);
    byId("key").focus();
  } else if (failure instanceof Refused && failure.retryAfterS !== undefined && tries < RETRIES) {
    void askLater(failure, tries + 1);
  } else {
    tell(failure.message, retry);
  }
}

/** Ask once more when the server has said that it is worth it, unless somebody stops it. */
async function askLater(failure, tries) {
  const abort = (running = new AbortController());
  isRunning(true);
  for (let left = Math.max(1, Math.ceil(failure.retryAfterS)); left > 0 && !abort.signal.aborted; left -= 1) {
    tell(`${failure.message} Trying again in ${left} s.`);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, 1000);
      abort.signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
  }
  if (running !== abort) return;
  running = null;
  isRunning(false);
  if (abort.signal.aborted) tell(failure.message, ["Send again", () => void ask()]);
  else void ask(tries);
}

/** The context is full: the way on is to leave something out. */
function makeRoom(message) {
  const drop = () => {
    if (conversation.dropOldest()) {
      showAll();
      void ask();
    } else {
      tell("The last message alone is too long for this model's context.", ["Edit it", () => edit(conversation.turns.length - 1)]);
    }
  };
  tell(message, ["Drop the oldest turns", drop], ["New chat", begin]);
}

function lengthReached(answer) {
  if (!contextTokens || (answer.usage?.total_tokens ?? 0) < contextTokens) return;
  const drop = () => {
    if (!conversation.dropOldest()) return tell("There is but one question: begin a new chat.", ["New chat", begin]);
    showAll();
    tell("The oldest turns are gone; there is room again.");
  };
  tell("The context is full: nothing more fits into this conversation.", ["Drop the oldest turns", drop], ["New chat", begin]);
}

function begin() {
  const before = conversation.turns;
  stop();
  running = null;
  editing = null;
  conversation.replace([]);
  showAll();
  isRunning(false);
  const restore = () => {
    conversation.replace(before);
    showAll();
    tell("");
  };
  if (before.length) tell("The conversation is gone.", ["Bring it back", restore]);
  else tell("");
  prompt.focus();
}

async function insert(files) {
  for (const file of files) {
    try {
      const text = await quoted(file);
      write(`${prompt.value}${prompt.value && !prompt.value.endsWith("\n") ? "\n\n" : ""}${text}`);
      tell("");
    } catch (error) {
      tell(error.message);
    }
  }
  prompt.focus();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop();
  else if (prompt.value.trim()) say(prompt.value.trim());
});

prompt.addEventListener("input", fit);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !running) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
  if (event.key === "ArrowUp" && !prompt.value && !running) {
    const mine = conversation.turns.findLastIndex((turn) => turn.role === "user");
    if (mine >= 0) {
      event.preventDefault();
      edit(mine);
    }
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) stop();
  else if (editing !== null) stopEditing();
});

function stopEditing() {
  editing = null;
  write("");
  invite();
}

prompt.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  void insert(event.clipboardData.files);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop") void insert(event.dataTransfer.files);
  });
}

byId("key").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  void learnModel();
  if (!running && conversation.isOwed) void ask();
});
byId("new").addEventListener("click", begin);
byId("stop-editing").addEventListener("click", stopEditing);
byId("latest").addEventListener("click", scrollToEnd);
log.addEventListener("scroll", () => {
  follows = isAtEnd();
  byId("latest").hidden = follows;
});

/** What a reload in the middle of an answer leaves of it. */
addEventListener("pagehide", () => {
  stop();
  running = null;
  if (unfinished?.text) conversation.add({ ...unfinished.turn, calls: [], meter: "cut off by a reload" });
});
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  showAll();
  isRunning(false);
});

async function learnModel() {
  const key = byId("key").value;
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const listed = await fetch("v1/models", { headers }).catch(() => null);
  if (listed?.status === 401) byId("key-row").hidden = false;
  if (!listed?.ok) return;
  const models = (await listed.json()).data;
  byId("models").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  byId("models").hidden = models.length < 2;
  byId("model").hidden = models.length > 1;
  const choose = () => {
    const model = models[byId("models").selectedIndex];
    byId("model").textContent = model.id;
    contextTokens = model.max_model_len ?? null;
    showContext(conversation.turns.findLast((turn) => turn.total)?.total);
  };
  byId("models").onchange = choose;
  choose();
}

showAll();
await learnModel();
if (conversation.isOwed && !running) tell("The last message has no answer.", ["Send it", () => void ask()]);
