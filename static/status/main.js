// Connect, apply events to the store, draw at most once per frame.

import { Charts } from "./charts.js";
import { Detail } from "./detail.js";
import { byId, setData, setText } from "./dom.js";
import { isWaiting } from "./format.js";
import { Lanes } from "./lanes.js";
import { showHistory, showServer, showTotals, showWaste } from "./books.js";
import { Store } from "./store.js";

const EVENTS = ["snapshot", "server", "queue", "request", "token", "draft", "finished"];
const RETRY_MS = 2000;

const store = new Store();
const detail = new Detail();
const lanes = new Lanes(select);
let charts = null;
let selected = null;
let isPinned = false;
let isDrawing = false;

function select(id) {
  isPinned = !(isPinned && id === selected);
  selected = id;
  draw();
}

/** Unless somebody has chosen one: the newest request, and the last one when all are over. */
function follow() {
  if (isPinned && store.get(selected)) return;
  isPinned = false;
  const running = [...store.live.values()].filter((request) => !isWaiting(request));
  const newest = running.at(-1) ?? [...store.live.values()].at(-1);
  if (store.live.has(selected) && !isWaiting(store.live.get(selected))) return;
  selected = newest?.id ?? (store.get(selected) ? selected : [...store.finished.keys()].at(-1)) ?? null;
}

function draw() {
  if (!isDrawing) {
    isDrawing = true;
    requestAnimationFrame(render);
  }
}

function render() {
  isDrawing = false;
  if (!store.server) return;
  byId("main").hidden = false;
  charts ??= new Charts();
  follow();
  showServer(store.server);
  showTotals(store);
  lanes.show(store, selected);
  detail.show(selected === null ? undefined : store.get(selected));
  charts.show(store.history);
  showHistory(store.history);
  showWaste(store.totals);
}

function say(state, text) {
  setData(byId("connection"), "state", state);
  setText(byId("connection"), text);
}

function connect() {
  const source = new EventSource("status/events");
  source.onopen = () => {
    byId("key-form").hidden = true;
    say("live", "live");
  };
  source.onerror = () => {
    say("lost", "reconnecting");
    // The browser tries again by itself where the connection broke, and gives up where it was refused.
    if (source.readyState === EventSource.CLOSED) void refused();
  };
  for (const event of EVENTS) {
    source.addEventListener(event, (message) => {
      store.apply(event, JSON.parse(message.data));
      draw();
    });
  }
}

async function refused() {
  const status = await fetch("status/json").then((answer) => answer.status, () => 0);
  if (status === 401) {
    say("lost", "key needed");
    byId("key-form").hidden = false;
    byId("key").focus();
  } else {
    setTimeout(connect, RETRY_MS);
  }
}

byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new URLSearchParams({ key: byId("key").value });
  const answer = await fetch("status/key", { method: "POST", body }).catch(() => null);
  setText(byId("key-error"), answer?.ok ? "" : "That is not it.");
  if (answer?.ok) {
    byId("key").value = "";
    connect();
  }
});

byId("stop").addEventListener("click", async () => {
  const button = byId("stop");
  button.disabled = true;
  await fetch(`v1/requests/${encodeURIComponent(selected)}`, { method: "DELETE" }).catch(() => null);
  button.disabled = false;
});

setInterval(draw, 1000); // waiting times go on without events
connect();
