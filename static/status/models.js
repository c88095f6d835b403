// A row per model, where there are several or one that comes and goes. Rows are made once for each.

import { byId, element, setData, setText, setWidth } from "./dom.js";
import { bytes, count, visible } from "./format.js";

const PHASES = { loaded: "decode", elsewhere: "decode", loading: "prefill", leaving: "write", failed: "bad" };
const rows = new Map();

class Row {
  constructor(name) {
    this.node = element("tr");
    const head = element("th", "mono", visible(name));
    head.scope = "row";
    this.state = element("span", "badge");
    this.reason = element("td", "dim");
    const state = element("td");
    state.append(this.state);
    this.bar = element("span", "bar");
    this.full = element("span", "bar-done");
    this.bar.append(this.full);
    const load = element("td", "replica-load");
    this.load = element("span");
    load.append(this.load, this.bar);
    this.cells = ["live", "waiting", "memory", "requests", "prompt", "completion"].map(() => element("td", "n"));
    this.node.append(head, state, load, ...this.cells, this.reason);
  }

  show(model) {
    setText(this.state, model.state);
    setData(this.state, "phase", PHASES[model.state] ?? "idle");
    setText(this.reason, visible(model.reason ?? ""));
    const isThere = model.state === "loaded" || model.state === "elsewhere";
    setText(this.load, isThere ? `${model.busy} of ${model.slots}` : `${model.slots} once loaded`);
    setWidth(this.full, model.slots ? model.busy / model.slots : 0);
    const texts = [
      count(model.live),
      count(model.waiting),
      model.memory_bytes === undefined ? "–" : bytes(model.memory_bytes),
      count(model.requests),
      count(model.prompt_tokens),
      count(model.completion_tokens),
    ];
    texts.forEach((text, index) => setText(this.cells[index], text));
  }
}

export function showModels({ models }) {
  const block = byId("models-block");
  block.hidden = models.length === 0;
  if (block.hidden) return;
  const there = models.filter((model) => model.state === "loaded" || model.state === "elsewhere").length;
  setText(byId("models-count"), `${there} of ${models.length} there`);
  const names = new Set(models.map((model) => model.name));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.node.remove();
    rows.delete(name);
  }
  for (const model of models) {
    if (!rows.has(model.name)) {
      rows.set(model.name, new Row(model.name));
      byId("models").append(rows.get(model.name).node);
    }
    rows.get(model.name).show(model);
  }
}
