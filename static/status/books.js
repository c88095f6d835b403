// What is summed up: the totals, the history and the work for nobody.

import { byId, element, setFacts, setText } from "./dom.js";
import { OUTCOMES, clock, count, duration, isTrouble, percent, rate } from "./format.js";

let shownHistory = null;

export function showTotals(store) {
  const { totals, subscribers, server } = store;
  const saved = totals.prompt_tokens ? totals.cached_tokens / totals.prompt_tokens : undefined;
  setFacts(byId("totals"), [
    ["requests", count(totals.requests)],
    ["prompt tokens", count(totals.prompt_tokens)],
    ["from cache", percent(saved)],
    ["tokens out", count(totals.completion_tokens)],
    ["refused", count(totals.refused)],
    ["evicted", count(totals.evicted_subscribers)],
    ["open streams", count(subscribers.streams)],
    ["watching", count(subscribers.status)],
    ["context", count(server.ctx_tokens)],
    ["up", duration(1000 * server.uptime_s)],
  ]);
}

export function showHistory(history) {
  if (history === shownHistory) return;
  shownHistory = history;
  byId("history").replaceChildren(
    ...history.toReversed().map((row) => {
      const line = element("tr");
      const outcome = element("td", isTrouble(row.outcome) ? "bad" : "", OUTCOMES[row.outcome] ?? row.outcome);
      const numbers = [
        count(row.prompt_tokens),
        count(row.cached_tokens),
        count(row.completion_tokens),
        row.reasoning_tokens ? count(row.reasoning_tokens) : "",
        row.calls ? count(row.calls) : "",
        duration(row.ttft_ms),
        rate(row.prefill_tok_s),
        rate(row.decode_tok_s),
        duration(row.total_ms),
      ];
      line.append(element("td", "dim", clock(row.finished_at)), outcome, ...numbers.map((text) => element("td", "n", text)));
      return line;
    }),
  );
}

export function showWaste(totals) {
  const { wasted, by_outcome: outcomes } = totals;
  setFacts(byId("waste"), [
    ["Decoded after the end", count(wasted.tokens_after_disconnect)],
    ["Prefill dropped", count(wasted.prefill_tokens_dropped)],
    ["Prefill kept", count(wasted.prefill_tokens_kept), "It serves the next request that begins alike"],
  ]);
  const shape = JSON.stringify([outcomes, wasted]);
  const body = byId("outcomes");
  if (body.dataset.shape === shape) return;
  body.dataset.shape = shape;
  body.replaceChildren(
    ...Object.keys(OUTCOMES)
      .filter((outcome) => outcomes[outcome])
      .map((outcome) => {
        const line = element("tr");
        const waste = wasted.by_outcome[outcome] ?? {};
        const numbers = [outcomes[outcome], waste.decoded_after_cancel, waste.prefill_dropped, waste.prefill_kept];
        line.append(element("td", isTrouble(outcome) ? "bad" : "", OUTCOMES[outcome]));
        line.append(...numbers.map((value) => element("td", "n", count(value ?? 0))));
        return line;
      }),
  );
}

export function showServer(server) {
  setText(byId("model"), server.model);
  const phase = byId("phase");
  setText(phase, server.phase);
  phase.dataset.phase = server.phase;
  setText(byId("about"), `corral ${server.version}`);
  const alarm = byId("alarm");
  let text = "";
  if (server.failed) text = "The engine has failed: nothing can be generated.";
  else if (server.stalled) text = `The engine is stalled: a step has taken ${server.step_age_s ?? "too many"} s so far.`;
  else if (server.draining) text = "The server is shutting down and takes no new requests.";
  alarm.hidden = !text;
  setText(alarm, text);
}
