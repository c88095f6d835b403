// How to answer: the system prompt, sampling and tools, kept in this browser for the next visit.

const KEPT = "corral.options";
const FIELDS = ["system", "temperature", "top_p", "max_tokens", "seed", "tools"];

const field = (name) => document.getElementById(name);

export class Options {
  constructor() {
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}") ?? {};
    } catch {
      // It was not ours, or there is no storage: then all is as the server has it.
    }
    for (const name of FIELDS) {
      field(name).value = kept[name] ?? "";
      field(name).addEventListener("change", () => this.#keep());
    }
    this.#mark();
  }

  get system() {
    return field("system").value.trim();
  }

  /** The fields of a request. Throws an Error, for people, where something in them is of no use. */
  read() {
    const request = { tools: this.#tools };
    for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
      if (!field(name).validity.valid) {
        field("options").open = true;
        throw new Error(`${field(name).labels[0].textContent}: ${field(name).validationMessage}`);
      }
      if (field(name).value !== "") request[name] = field(name).valueAsNumber;
    }
    return request;
  }

  get #tools() {
    const text = field("tools").value.trim();
    if (!text) return undefined;
    try {
      const given = JSON.parse(text);
      return Array.isArray(given) ? given : [given];
    } catch (error) {
      throw new Error(`The tools are no JSON: ${error.message}`);
    }
  }

  #keep() {
    const values = FIELDS.map((name) => [name, field(name).value]).filter(([, value]) => value !== "");
    try {
      localStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(values)));
    } catch {
      // Full, or forbidden.
    }
    this.#mark();
  }

  /** Say in the closed box how many are set: what was set long ago is forgotten, and works. */
  #mark() {
    const set = FIELDS.filter((name) => field(name).value !== "").length;
    field("options-set").textContent = set ? ` (${set} set)` : "";
  }
}
