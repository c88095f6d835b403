// The one conversation of this tab: what was said, kept across a reload and gone with the tab.
//
// A turn is { role, content } and, of an answer, { calls, thought, meter, id } where it has them: `calls` as the API
// takes them, `meter` the line below it, `id` the request's. That of a tool is { callId, name } too.

const KEPT = "corral.conversation";
/** Of the context: what may stay when room is made for more. */
const KEPT_SHARE = 0.5;

export class Conversation {
  turns = [];

  constructor() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
      if (Array.isArray(kept)) this.turns = kept;
    } catch {
      // It was not ours, or there is no storage: then the conversation begins here.
    }
  }

  get last() {
    return this.turns.at(-1);
  }

  /** Calls of the last answer whose results nobody has given yet. */
  get open() {
    const asked = this.turns.findLastIndex((turn) => turn.role === "assistant");
    return (this.turns[asked]?.calls ?? []).slice(this.turns.length - asked - 1);
  }

  /** Whether something was said that has no answer. */
  get isOwed() {
    return this.turns.length > 0 && this.last.role !== "assistant" && !this.open.length;
  }

  add(turn) {
    this.turns.push(turn);
    this.keep();
  }

  /** Take everything from the turn at `index` on away. */
  cut(index) {
    this.turns.length = index;
    this.keep();
  }

  replace(turns) {
    this.turns = turns;
    this.keep();
  }

  /** Take the oldest questions with all that followed them away until half is left; false if there is but one. */
  dropOldest() {
    const starts = this.turns.flatMap((turn, index) => (turn.role === "user" ? [index] : []));
    const sizes = this.turns.map((turn) => JSON.stringify(turn).length);
    const sizeFrom = (index) => sizes.slice(index).reduce((sum, size) => sum + size, 0);
    const fits = starts.slice(1).find((index) => sizeFrom(index) <= KEPT_SHARE * sizeFrom(0)) ?? starts.at(-1);
    if (starts.length < 2) return false;
    this.replace(this.turns.slice(fits));
    return true;
  }

  keep() {
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(this.turns));
    } catch {
      // Full, or forbidden: it lives as long as the page, then.
    }
  }

  /** As the API takes it. */
  messages(system) {
    // An answer that was stopped before it said anything is none.
    const turns = this.turns.filter((turn) => turn.role !== "assistant" || turn.content || turn.calls?.length);
    const said = turns.map(({ role, content, calls, thought, callId }) => {
      if (role === "tool") return { role, content, tool_call_id: callId };
      if (role === "user" || !calls?.length) return { role, content };
      // A thought belongs to the calls that came of it.
      return { role, content: content || null, tool_calls: calls, ...(thought && { reasoning_content: thought }) };
    });
    return system ? [{ role: "system", content: system }, ...said] : said;
  }
}
