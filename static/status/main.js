// Apply events to the store, draw at most once per frame, and do what the buttons say.

import { showTotals, showWaste } from "./books.js";
import { Charts } from "./charts.js";
import { freeze, thaw } from "./clock.js";
import { Connection } from "./connection.js";
import { Detail } from "./detail.js";
import { byId, setData, setText } from "./dom.js";
import { isWaiting } from "./format.js";
import { showHeadline, showServer } from "./headline.js";
import { History } from "./history.js";
import { Lanes } from "./lanes.js";
import { Queue } from "./queue.js";
import { showRefused } from "./refused.js";
import { showModels } from "./models.js";
import { showReplicas } from "./replicas.js";
import { Store } from "./store.js";

const store = new Store();
const detail = new Detail();
const lanes = new Lanes(select);
const queue = new Queue(select);
const history = new History(select);
let charts = null;
let selected = null;
let isPinned = false;
let isDrawing = false;
/** When the server was last heard of, once it is not any more. */
let lost = null;

const linked = () => decodeURIComponent(location.hash.slice(1)) || null;

function select(id) {
  isPinned = true;
  selected = id;
  draw();
}

/** Unless somebody has chosen one: the newest request, and the last one when all are over. */
function follow() {
  if (isPinned && (store.get(selected) || selected === linked())) return;
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
  showServer(store, lost);
  showHeadline(store);
  showRefused(store);
  showTotals(store);
  lanes.show(store, selected);
  queue.show(store, selected);
  showModels(store);
  showReplicas(store);
  detail.show(selected === null ? undefined : store.get(selected), {
    isPinned,
    mayStop: store.rights.may_stop && !lost,
    namesModel: store.areSeveral,
  });
  charts.show(store);
  history.show(store.history, selected, store.areSeveral);
  showWaste(store.totals);
}

function say(state, text) {
  setData(byId("connection"), "state", state);
  setText(byId("connection"), text);
}

const connection = new Connection({
  event(name, data) {
    store.apply(name, data);
    draw();
  },
  live() {
    if (byId("connection").dataset.state === "live") return;
    lost = null;
    thaw();
    setData(byId("main"), "lost", "false");
    byId("key-form").hidden = true;
    say("live", "live");
  },
  lost(at, time) {
    freeze(at);
    lost = time;
    setData(byId("main"), "lost", "true");
    say("lost", store.server?.draining ? "stopped" : "reconnecting");
    draw();
  },
  keyNeeded() {
    say("lost", "key needed");
    byId("key-form").hidden = false;
    byId("key").focus();
  },
});

byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new URLSearchParams({ key: byId("key").value });
  const answer = await fetch("status/key", { method: "POST", body }).catch(() => null);
  setText(byId("key-error"), answer?.ok ? "" : "That is not it.");
  if (answer?.ok) {
    byId("key").value = "";
    selectLinked();
connection.open();
  }
});

byId("stop").addEventListener("click", async () => {
  const button = byId("stop");
  button.disabled = true;
  const answer = await fetch(`v1/requests/${encodeURIComponent(selected)}`, { method: "DELETE" }).catch(() => null);
  button.disabled = false;
  setText(byId("stop-said"), STOPPED[answer?.status] ?? "The server could not be asked to stop it.");
});

const STOPPED = { 200: "Stopped.", 401: "To stop it, enter the status key.", 403: "You may not stop requests.", 404: "It had ended already." };

byId("follow").addEventListener("click", () => {
  isPinned = false;
  selected = null;
  draw();
});

/** `status#chatcmpl-…` opens that request, as soon as there is one. */
function selectLinked() {
  if (linked()) select(linked());
}

window.addEventListener("hashchange", selectLinked);
setInterval(draw, 500); // waiting times go on without events
selectLinked();
connection.open();
