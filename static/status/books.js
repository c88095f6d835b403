// What is summed up since the start: the totals, and the work for nobody.

import { byId, element, setFacts, setText } from "./dom.js";
import { OUTCOMES, count, duration, isTrouble, percent } from "./format.js";
import { uptimeMs } from "./store.js";

export function showTotals(store) {
  const { totals, subscribers, server } = store;
  const saved = totals.prompt_tokens ? totals.cached_tokens / totals.prompt_tokens : undefined;
  setFacts(byId("totals"), [
    ["up", duration(1000 * Math.floor(uptimeMs(server) / 1000))],
    ["requests", count(totals.requests)],
    ["prompt tokens", count(totals.prompt_tokens)],
    ["from cache", percent(saved)],
    ["tokens out", count(totals.completion_tokens)],
    ["refused", count(totals.refused)],
    ["evicted", count(totals.evicted_subscribers)],
    ["open streams", count(subscribers.streams)],
    ["watching", count(subscribers.status)],
  ]);
}

export function showWaste(totals) {
  const { wasted, by_outcome: outcomes } = totals;
  setFacts(byId("waste"), [
    ["Decoded after the end", count(wasted.tokens_after_disconnect)],
    ["Prefill dropped", count(wasted.prefill_tokens_dropped)],
    ["Prefill kept", count(wasted.prefill_tokens_kept)],
    ...(wasted.tokens_thrown_away ? [["Broke off, said anew", count(wasted.tokens_thrown_away)]] : []),
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
  setText(byId("outcomes-none"), body.children.length ? "" : "No request has ended yet.");
}
