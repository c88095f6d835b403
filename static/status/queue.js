// Who waits: the place, how long it has waited, and about how long it will yet.

import { now } from "./clock.js";
import { byId, element, setData, setText } from "./dom.js";
import { STATES, duration, shortId, visible } from "./format.js";
import { totalMs } from "./store.js";

// Counts down between what the server says, and is no finer than an estimate can be.
export function waitText(eta_s, at) {
  if (eta_s === undefined) return "no estimate yet";
  const left = eta_s - (now() - at) / 1000;
  if (left < 1.5) return "slot in a moment";
  const step = left < 10 ? 1 : left < 60 ? 5 : left < 120 ? 10 : 60;
  return `slot in about ${about(step * Math.round(left / step))}`;
}

const about = (s) => (s < 60 ? `${s} s` : duration(1000 * s));

function place({ id, position, waited_s, eta_s, at }) {
  return {
    id,
    number: position + 1,
    waited: `waits ${about(Math.floor(waited_s + (now() - at) / 1000))}`,
    rest: waitText(eta_s, at),
  };
}

/** Its model is being loaded, or its prompt written: it has no place in line yet. */
function preparing(request) {
  return { id: request.id, number: "·", waited: `${request.doing === "loading" ? `loading ${visible(request.model ?? "its model")}` : STATES.preparing} ${duration(totalMs(request))}`, rest: "" };
}

export class Queue {
  constructor(select) {
    this.select = select;
    this.list = byId("queue");
  }

  show(store, selected) {
    const rows = [...store.queue.map(place), ...store.preparing().map(preparing)];
    byId("queue-block").hidden = rows.length === 0;
    const counts = [`${store.queue.length} waiting`];
    if (rows.length > store.queue.length) counts.push(`${rows.length - store.queue.length} preparing`);
    setText(byId("queue-count"), counts.join(" · "));
    while (this.list.children.length > rows.length) this.list.lastElementChild.remove();
    while (this.list.children.length < rows.length) this.list.append(this.#item());
    rows.forEach((row, index) => {
      const button = this.list.children[index].firstElementChild;
      const [number, id, waited, rest] = button.children;
      setData(button, "id", row.id);
      button.setAttribute("aria-pressed", String(row.id === selected));
      setText(number, row.number);
      setText(id, shortId(row.id));
      setText(waited, row.waited);
      setText(rest, row.rest);
    });
  }

  #item() {
    const item = element("li");
    const button = element("button", "place");
    button.type = "button";
    const waited = element("span", "place-wait");
    waited.ariaHidden = "true"; // it changes while it would be read out
    button.append(element("span", "place-number"), element("span", "lane-id"), waited, element("span", "dim"));
    button.addEventListener("click", () => this.select(button.dataset.id));
    item.append(button);
    return item;
  }
}
