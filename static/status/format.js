// Numbers for people.

export function count(value) {
  if (value === undefined || value === null) return "–";
  if (value < 10_000) return value.toLocaleString("en");
  if (value < 1e6) return `${(value / 1e3).toFixed(value < 1e5 ? 1 : 0)}k`;
  return `${(value / 1e6).toFixed(2)}M`;
}

export function duration(ms) {
  if (ms === undefined || ms === null) return "–";
  if (ms < 1) return ms === 0 ? "0 ms" : "<1 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(s < 10 ? 2 : 1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

export function rate(perSecond) {
  if (perSecond === undefined || perSecond === null) return "–";
  return perSecond < 100 ? perSecond.toFixed(1) : Math.round(perSecond).toLocaleString("en");
}

export function percent(share) {
  return share === undefined || share === null ? "–" : `${Math.round(100 * share)} %`;
}

export function clock(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleTimeString("en-GB");
}

export function shortId(id) {
  return id.replace(/^[a-z]+[-_]/, "").slice(0, 8);
}

export const OUTCOMES = {
  stop: "done",
  stop_sequence: "stop string",
  length: "length",
  tool_calls: "tool calls",
  disconnected: "client left",
  cancelled: "cancelled",
  evicted: "too slow, evicted",
  stopped_by_operator: "stopped here",
  deadline: "deadline",
  shutdown: "shutdown",
  refused: "refused",
  failed: "failed",
};

/** What an answer is held to, in a word for a lane. */
export const GRAMMARS = {
  json_object: "json",
  json_schema: "json schema",
  regex: "regex",
  choice: "choice",
  lark: "grammar",
  gbnf: "grammar",
};

export const STATES = {
  preparing: "preparing",
  queued: "queued",
  prefill: "prefill",
  decode: "decode",
  write: "writing",
};

/** It has no slot yet. */
export function isWaiting(request) {
  return request.state === "preparing" || request.state === "queued";
}

export function isTrouble(outcome) {
  return ["failed", "evicted", "deadline"].includes(outcome);
}
