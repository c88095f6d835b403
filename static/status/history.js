// The requests that are over: sorted by any column, filtered by words, and each opens in the detail.

import { byId, element, setText } from "./dom.js";
import { OUTCOMES, clock, count, duration, isTrouble, rate, shortId, visible } from "./format.js";

const outcomeOf = (row) => OUTCOMES[row.outcome] ?? row.outcome;

/** Title, what it is sorted by, what is shown, and whether that is a number. */
const COLUMNS = [
  ["Ended", (row) => row.finished_at, (row) => clock(row.finished_at)],
  ["Request", (row) => row.id, (row) => shortId(row.id)],
  ["Outcome", outcomeOf, outcomeOf],
  ["Status", (row) => row.status, (row) => row.status ?? "–", true],
  ["Client", (row) => row.client, (row) => row.client || "–"],
  ["Session", (row) => row.session, (row) => shortened(row.session)],
  ["Queue", (row) => row.queue_ms, (row) => duration(row.queue_ms), true],
  ["TTFT", (row) => row.ttft_ms, (row) => duration(row.ttft_ms), true],
  ["Total", (row) => row.total_ms, (row) => duration(row.total_ms), true],
  ["Prompt", (row) => row.prompt_tokens, (row) => count(row.prompt_tokens), true],
  ["Cached", (row) => row.cached_tokens, (row) => count(row.cached_tokens), true],
  ["Out", (row) => row.completion_tokens, (row) => count(row.completion_tokens), true],
  ["Thought", (row) => row.reasoning_tokens, (row) => (row.reasoning_tokens ? count(row.reasoning_tokens) : ""), true],
  ["Calls", (row) => row.calls, (row) => (row.calls ? count(row.calls) : ""), true],
  ["Prefill/s", (row) => row.prefill_tok_s || undefined, (row) => rate(row.prefill_tok_s || undefined), true],
  ["Decode/s", (row) => row.decode_tok_s, (row) => rate(row.decode_tok_s), true],
  ["Model", (row) => row.model, (row) => row.model ?? "–"],
];
const CLASSES = { Ended: "dim", Model: "of-model" };
const SESSION_CHARS = 14;

function shortened(session) {
  if (!session) return "–";
  return session.length > SESSION_CHARS ? `${session.slice(0, SESSION_CHARS - 1)}…` : session;
}

/** All that a row can be found by, in lower case. */
function words(row) {
  const found = [row.id, row.request_id, row.client, row.session, row.model, row.api, row.status, row.error, outcomeOf(row), row.outcome];
  return found.filter(Boolean).join(" ").toLowerCase();
}

export class History {
  constructor(select) {
    this.select = select;
    this.sorted = 0;
    this.isDescending = true;
    this.shown = null;
    this.filter = byId("history-filter");
    this.filter.addEventListener("input", () => this.#render());
    this.heads = COLUMNS.map(([title, , , isNumber], index) => this.#head(title, isNumber, index));
    byId("history-head").replaceChildren(...this.heads);
  }

  /** `namesModel`: there are several, and a column says which. */
  show(rows, selected, namesModel) {
    byId("history").parentElement.classList.toggle("of-one-model", !namesModel);
    if (rows === this.shown && selected === this.selected) return;
    const isSelection = rows === this.shown;
    this.shown = rows;
    this.selected = selected;
    if (isSelection) this.#mark();
    else this.#render();
  }

  /** Show only what belongs to these words. */
  find(text) {
    this.filter.value = text;
    this.#render();
  }

  #head(title, isNumber, index) {
    const head = element("th", isNumber ? "n" : title === "Model" ? "of-model" : "");
    head.scope = "col";
    const button = element("button", "sort", title);
    button.type = "button";
    button.addEventListener("click", () => {
      this.isDescending = this.sorted === index ? !this.isDescending : true;
      this.sorted = index;
      this.#render();
    });
    head.append(button);
    return head;
  }

  #render() {
    if (!this.shown) return;
    const wanted = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.shown.filter((row) => wanted.every((word) => words(row).includes(word)));
    const [, by] = COLUMNS[this.sorted];
    const sign = this.isDescending ? -1 : 1;
    const known = found.filter((row) => (by(row) ?? "") !== "").toSorted((a, b) => sign * order(by(a), by(b)));
    const rows = [...known, ...found.filter((row) => (by(row) ?? "") === "")];
    this.heads.forEach((head, index) => {
      const direction = this.isDescending ? "descending" : "ascending";
      if (index === this.sorted) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    });
    const focused = byId("history").contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
    byId("history").replaceChildren(...rows.map((row) => this.#row(row)));
    this.#mark();
    if (focused) byId("history").querySelector(`button[data-id="${CSS.escape(focused)}"]`)?.focus();
    setText(byId("history-count"), wanted.length ? `${found.length} of ${this.shown.length}` : String(this.shown.length));
  }

  #row(row) {
    const line = element("tr");
    line.dataset.id = row.id;
    line.addEventListener("click", () => this.select(row.id));
    line.append(
      ...COLUMNS.map(([title, , text, isNumber]) => {
        const cell = element("td", isNumber ? "n" : (CLASSES[title] ?? ""));
        if (title === "Request") cell.append(this.#button(row));
        else setText(cell, visible(String(text(row))));
        if (title === "Outcome" && isTrouble(row.outcome)) cell.classList.add("bad");
        if (title === "Session" && row.session) cell.title = visible(row.session);
        return cell;
      }),
    );
    return line;
  }

  /** For the keyboard; a click on it is one on its row. */
  #button(row) {
    const button = element("button", "open mono", shortId(row.id));
    button.type = "button";
    button.dataset.id = row.id;
    return button;
  }

  #mark() {
    for (const line of byId("history").children) {
      const isSelected = line.dataset.id === this.selected;
      line.classList.toggle("selected", isSelected);
      line.querySelector("button").setAttribute("aria-pressed", String(isSelected));
    }
  }
}

const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
