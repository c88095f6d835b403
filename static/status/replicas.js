// A lane per replica, where the model is elsewhere. Rows are made once for each and only their text changes.

import { byId, element, setData, setText, setWidth } from "./dom.js";
import { clock, count, duration, percent, visible } from "./format.js";

const PHASES = { "in service": "decode", draining: "write", out: "over", tried: "prefill" };
const rows = new Map();

class Row {
  constructor({ name, model }, namesModel) {
    this.node = element("tr");
    const head = element("th", "mono", visible(namesModel ? `${name} · ${model}` : name));
    head.scope = "row";
    this.state = element("span", "badge");
    this.bar = element("span", "bar");
    this.full = element("span", "bar-done");
    this.bar.append(this.full);
    const state = element("td");
    state.append(this.state);
    const load = element("td", "replica-load");
    this.load = element("span");
    load.append(this.load, this.bar);
    this.cells = ["work", "served", "affinity", "residual", "openings"].map(() => element("td"));
    this.node.append(head, state, load, ...this.cells);
  }

  show(replica) {
    setText(this.state, replica.state);
    setData(this.state, "phase", PHASES[replica.state] ?? "idle");
    this.node.title = replica.reason ? visible(`${replica.reason}${since(replica)}`) : "";
    setText(this.load, `${replica.in_flight} of ${replica.slots}`);
    setWidth(this.full, replica.slots ? replica.in_flight / replica.slots : 0);
    const texts = [
      count(replica.work_tokens),
      count(replica.served),
      replica.served ? percent(replica.affinity_hits / replica.served) : "–",
      duration(1000 * replica.residual_s),
      `${count(replica.openings)}${replica.openings && replica.reason ? ` · ${visible(replica.reason)}` : ""}`,
    ];
    texts.forEach((text, index) => setText(this.cells[index], text));
  }
}

function since({ out_since: at }) {
  return at === null || at === undefined ? "" : ` (since ${clock(at)})`;
}

const keyOf = ({ name, model }) => `${name} ${model}`;

export function showReplicas({ replicas, areSeveral }) {
  const block = byId("replicas-block");
  block.hidden = replicas.length === 0;
  if (block.hidden) return;
  const inService = replicas.filter((replica) => replica.state === "in service").length;
  setText(byId("replicas-count"), `${inService} of ${replicas.length} in service`);
  const names = new Set(replicas.map(keyOf));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.node.remove();
    rows.delete(name);
  }
  for (const replica of replicas) {
    const key = keyOf(replica);
    if (!rows.has(key)) {
      rows.set(key, new Row(replica, areSeveral));
      byId("replicas").append(rows.get(key).node);
    }
    rows.get(key).show(replica);
  }
}
