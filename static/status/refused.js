// Who was sent away, and why: a line, and the last of them behind it.

import { now } from "./clock.js";
import { byId, element, setText } from "./dom.js";
import { clock, count, duration, visible } from "./format.js";

let shown = null;

function what({ status, code, param }) {
  return `${status} ${param ? `'${visible(param)}'` : code.replaceAll("_", " ")}`;
}

function row(refused) {
  const line = element("tr");
  const texts = [clock(refused.at), String(refused.status), refused.code, refused.param ?? "", refused.client];
  line.append(...texts.map((text) => element("td", "", visible(text))));
  line.append(element("td", "", visible(`${refused.method} ${refused.path}`)), element("td", "mono", visible(refused.id)));
  return line;
}

export function showRefused(store) {
  const { refusals, totals } = store;
  const block = byId("refused");
  block.hidden = totals.refused === 0;
  const last = refusals.at(-1);
  const parts = [`refused ${count(totals.refused)}`];
  if (last) parts.push(`last: ${what(last)}, ${age(last.at)}`);
  setText(byId("refused-line"), parts.join(" · "));
  if (refusals === shown) return;
  shown = refusals;
  byId("refused-rows").replaceChildren(...refusals.toReversed().map(row));
}

// By the machine's clock, which may not be the server's; it stands where the page's own stands.
function age(at) {
  const ms = Date.now() - (performance.now() - now()) - 1000 * at;
  return ms < 1000 ? "just now" : `${ms < 60_000 ? `${Math.floor(ms / 1000)} s` : duration(ms)} ago`;
}
