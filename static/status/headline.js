// How full it is, in one row; and what the server is and whether it is well.

import { byId, element, setData, setText } from "./dom.js";
import { bytes, count, percent, rate } from "./format.js";

const NEARLY_FULL = 0.95;

/** Name, value, what else is to be known of it, and whether it is full. */
function figures({ server, load, totals }) {
  const context = server.ctx_tokens ? load.context_tokens / server.ctx_tokens : undefined;
  const found = totals.prompt_tokens ? totals.cached_tokens / totals.prompt_tokens : undefined;
  const prefixBytes = load.kept_bytes === undefined ? undefined : load.kept_bytes + (load.saved_bytes ?? 0);
  const memory = server.machine_bytes ? load.memory_bytes / server.machine_bytes : 0;
  return [
    ["slots", `${load.busy} / ${server.slots}`, "", load.busy >= server.slots && server.slots > 0],
    ["waiting", `${load.waiting} / ${server.queue_limit}`, "", load.waiting >= server.queue_limit && load.waiting > 0],
    ["tokens/s out", rate(load.decode_tok_s), "", false],
    ["tokens/s in", rate(load.prefill_tok_s), "prompts, computed", false],
    ["context", percent(context), context === undefined ? "" : `${count(load.context_tokens)} of ${count(server.ctx_tokens)}`, context >= NEARLY_FULL],
    ["prefix cache", bytes(prefixBytes), `${percent(found)} of prompts found`, false],
    ["memory", bytes(load.memory_bytes), server.machine_bytes ? `of ${bytes(server.machine_bytes)}` : "", memory >= NEARLY_FULL],
  ];
}

export function showHeadline(store) {
  const list = byId("headline");
  const shown = figures(store);
  while (list.children.length < shown.length) {
    const tile = element("div");
    tile.append(element("dt"), element("dd"), element("dd", "note"));
    list.append(tile);
  }
  shown.forEach(([name, value, note, isFull], index) => {
    const tile = list.children[index];
    const [term, figure, more] = tile.children;
    setData(tile, "full", String(isFull));
    setText(term, name);
    setText(figure, value);
    setText(more, isFull ? "full" : note);
  });
}

/** What is wrong, if anything is: a loss of the server outdoes all that it last said of itself. */
export function showServer({ server, models }, lost) {
  setText(byId("model"), models.length > 1 ? `${models.length} models` : server.model);
  const phase = byId("phase");
  const isStopped = lost && server.draining;
  setText(phase, lost ? (isStopped ? "stopped" : "not known") : server.phase);
  setData(phase, "phase", lost ? "over" : server.phase);
  setText(byId("about"), `corral ${server.version}`);
  const alarm = byId("alarm");
  let text = "";
  if (isStopped) text = `The server was stopped at ${time(lost)}. What is shown is from then.`;
  else if (lost) text = `No connection since ${time(lost)}. What is shown is from then. Trying again.`;
  else if (server.failed) text = "The engine has failed: nothing can be generated.";
  else if (server.stalled) text = `The engine is stalled: a step has taken ${server.step_age_s ?? "too many"} s so far.`;
  else if (server.draining) text = "The server is shutting down and takes no new requests.";
  alarm.hidden = !text;
  setText(alarm, text);
  const wrong = isStopped ? "stopped" : lost ? "no connection" : server.failed ? "failed" : server.stalled ? "stalled" : "";
  document.title = wrong ? `● corral: ${wrong}` : "corral status";
}

const time = (date) => date.toLocaleTimeString("en-GB");
