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
  if (Math.round(ms) < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(s < 10 ? 2 : 1)} s`;
  if (s < 3600) return s % 60 < 1 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
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

export function bytes(value) {
  if (value === undefined || value === null) return "–";
  if (value < 2 ** 20) return `${Math.round(value / 2 ** 10)} KiB`;
  if (value < 2 ** 30) return `${(value / 2 ** 20).toFixed(value < 10 * 2 ** 20 ? 1 : 0)} MiB`;
  return `${(value / 2 ** 30).toFixed(value < 10 * 2 ** 30 ? 1 : 0)} GiB`;
}

/** Of some numbers the one that so large a share of them does not exceed; undefined of none. */
export function percentile(numbers, share) {
  const ordered = numbers.toSorted((a, b) => a - b);
  return ordered[Math.max(0, Math.ceil(share * ordered.length) - 1)];
}

const DIRECTIONS = { "\u200e": "↦", "\u200f": "↤", "\u061c": "↤", "\u202a": "↦", "\u202d": "↦", "\u2066": "↦",
  "\u202b": "↤", "\u202e": "↤", "\u2067": "↤", "\u2068": "↔", "\u202c": "↔", "\u2069": "↔" };

/** With a symbol for each character that would not be seen, or would turn the text around. As long as it was. */
export function visible(text) {
  return text.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/g, (each) => {
    if (each in DIRECTIONS) return DIRECTIONS[each];
    return each === "\u007f" ? "\u2421" : String.fromCharCode(0x2400 + each.charCodeAt(0));
  });
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
