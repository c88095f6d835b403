// One request, closely. Output grows by appending to its text node; nothing of it is rendered again.

import { byId, element, setFacts, setText, setWidth } from "./dom.js";
import { GRAMMARS, OUTCOMES, STATES, clock, count, duration, percent, rate, shortId, visible } from "./format.js";
import { speedNow, totalMs } from "./store.js";

const SAMPLING = [["Temperature", "temperature"], ["Top p", "top_p"], ["Top k", "top_k"], ["Min p", "min_p"]];
const SPENT = [
  ["preparing_ms", "preparing", "preparing"],
  ["queue_ms", "queued", "queue"],
  ["prefill_ms", "prefill", "prefill"],
  ["decode_ms", "decode", "decode"],
  ["blocked_write_ms", "write", "blocked write"],
];
const FOLLOW_PX = 40;
const NAMES = 3;

export class Detail {
  constructor() {
    this.id = null;
    this.outputs = [];
    this.messages = null;
    this.draft = undefined;
    this.bars = SPENT.map(([, state]) => {
      const bar = element("span");
      bar.dataset.state = state;
      return bar;
    });
    byId("spent").append(...this.bars);
    byId("spent-key").append(
      ...SPENT.map(([, state, name]) => {
        const item = element("li");
        const dot = element("i");
        dot.dataset.state = state;
        item.append(dot, element("span", "dim", name), element("b"));
        return item;
      }),
    );
  }

  show(request, { isPinned, mayStop, namesModel }) {
    byId("detail-empty").hidden = Boolean(request);
    byId("detail-body").hidden = !request;
    byId("stop").hidden = !mayStop || !request || Boolean(request.outcome) || request.state === "write";
    byId("follow").hidden = !request && !isPinned;
    byId("follow").disabled = !isPinned;
    setText(byId("follow"), isPinned ? "Pinned: follow the newest" : "Following the newest");
    if (!request) {
      setText(byId("detail-title"), isPinned ? "No such request yet" : "No request yet");
      return;
    }
    if (request.id !== this.id) this.#select(request.id);
    const outcome = OUTCOMES[request.outcome] ?? request.outcome;
    const why = request.error ? ` (${request.error})` : "";
    const state = request.outcome ? outcome + why : STATES[request.state];
    setText(byId("detail-title"), `${shortId(request.id)} · ${state}`);
    const from = request.client ? ` from ${request.client}` : "";
    const on = request.continued_on ? `, continued on ${request.continued_on}` : "";
    const at = request.replicas ? `, at ${request.replicas.join(", ")}${on}` : "";
    const began = request.started_at ? `, began ${clock(request.started_at)}` : "";
    const named = request.request_id ? ` (${request.request_id})` : "";
    const model = namesModel && request.model ? `, to ${request.model}` : "";
    const session = request.session ? `, session ${request.session}` : "";
    const status = request.status ? `, HTTP ${request.status}` : "";
    setText(byId("detail-line"), visible(`${request.id}${named}${from}${model}${at}${session}${began}${status}`));
    this.#showSpent(request);
    this.#showFacts(request);
    this.#showContent(request);
  }

  #select(id) {
    this.id = id;
    this.outputs = [];
    this.messages = null;
    setText(byId("stop-said"), "");
    byId("outputs").replaceChildren();
    byId("messages").replaceChildren();
  }

  #showSpent(request) {
    const known = SPENT.map(([field]) => request[field] ?? 0);
    const total = Math.max(1e-6, known.reduce((sum, ms) => sum + ms, 0));
    SPENT.forEach(([, , name], index) => {
      setWidth(this.bars[index], known[index] / total);
      this.bars[index].title = `${name}: ${duration(known[index])}`;
      setText(byId("spent-key").children[index].lastElementChild, duration(known[index]));
    });
    byId("spent").setAttribute("aria-label", SPENT.map(([, , name], i) => `${name} ${duration(known[i])}`).join(", "));
  }

  #showFacts(request) {
    const params = request.params ?? {};
    const names = request.tool_names ?? [];
    const offered = params.tools && (names.length ? `${params.tools}: ${names.slice(0, NAMES).join(", ")}${names.length > NAMES ? " …" : ""}` : params.tools);
    const choice = params.tool_choice ?? (params.tools ? "auto" : undefined);
    const thinks = params.thinking === undefined ? undefined : params.thinking ? "on" : "off";
    const drafts = request.drafted && `${count(request.accepted)} of ${count(request.drafted)}, ${percent(request.accepted / request.drafted)}`;
    setFacts(byId("facts"), [
      ["Total", duration(totalMs(request))],
      ["TTFT", duration(request.ttft_ms)],
      ["Prompt", count(request.prompt_tokens)],
      ["Cached", count(request.cached_tokens)],
      ["Prefilled", count(request.prefilled_tokens)],
      ["Output", count(request.completion_tokens)],
      ["Prefill", request.prefill_tok_s ? `${rate(request.prefill_tok_s)}/s` : undefined],
      ["Decode now", request.outcome || request.decode_tok_s === undefined ? undefined : `${rate(speedNow(request))}/s`],
      ["Decode, mean", request.decode_tok_s === undefined ? undefined : `${rate(request.decode_tok_s)}/s`],
      ["Thoughts", request.reasoning_tokens ? `${count(request.reasoning_tokens)} tokens${request.thought_cut ? ", cut" : ""}` : undefined],
      ["Tool calls", request.calls ? count(request.calls) : undefined],
      ["Vectors", params.inputs ? `${count(request.vectors ?? 0)} of ${count(params.inputs)}` : undefined],
      ["Dimensions", params.dimensions],
      ["Drafts accepted", drafts || undefined],
      ["Max tokens", count(params.max_tokens)],
      ...(params.inputs ? [] : SAMPLING.map(([name, field]) => [name, params[field]])),
      ["Seed", params.seed],
      ["Choices", params.n > 1 ? params.n : undefined],
      ["Stop strings", params.stop],
      ["Tools", offered, names.join(", ")],
      ["Tool choice", params.one_call ? `${choice}, one call` : choice],
      ["Held to", GRAMMARS[params.grammar]],
      ["Thinking", params.thinking_effort ?? thinks],
      ["Thought budget", params.thinking_budget === undefined ? undefined : `${count(params.thinking_budget)} tokens`],
    ]);
  }

  #showContent(request) {
    const isShown = request.messages !== undefined || (request.output ?? []).some((blocks) => blocks?.length);
    byId("content").hidden = !isShown;
    byId("content-hidden").hidden = isShown;
    if (!isShown) return;
    if (request.messages && this.messages !== request.messages) {
      this.messages = request.messages;
      byId("messages-block").hidden = false;
      setText(byId("messages-count"), request.messages.length);
      byId("messages").replaceChildren(...request.messages.map(messageNode));
    } else if (!request.messages) {
      byId("messages-block").hidden = true;
    }
    this.#showOutput(request.output ?? []);
    this.#showDraft(request.draft);
  }

  /** The guess for the last step that had one: what the model said too, and what it did not. */
  #showDraft(draft) {
    byId("draft-block").hidden = !draft;
    if (this.draft === draft) return;
    this.draft = draft;
    const marked = (draft?.tokens ?? []).map((text, index) => {
      const isAccepted = index < draft.accepted;
      const token = element(isAccepted ? "ins" : "del", "", visible(text));
      token.title = isAccepted ? "accepted" : "refused";
      return token;
    });
    byId("draft").replaceChildren(...marked);
  }

  #showOutput(output) {
    const box = byId("outputs");
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < FOLLOW_PX;
    let grew = false;
    output.forEach((blocks, choice) => {
      while (this.outputs.length <= choice) {
        const node = element("div", "choice");
        box.append(node);
        this.outputs.push({ node, blocks: [] });
      }
      const shown = this.outputs[choice];
      (blocks ?? []).forEach((said, number) => {
        if (!said.text) return;
        const node = (shown.blocks[number] ??= saidNode(said, shown.node));
        if (said.text.length === node.length) return;
        grew = true;
        if (said.text.length > node.length) node.appendData(visible(said.text.slice(node.length)));
        else node.data = visible(said.text);
      });
    });
    if (grew && follows) box.scrollTop = box.scrollHeight;
  }
}

/** The text node of a new block, which says what it is where it is no text for the client's user. */
function saidNode(said, choice) {
  const block = element("div", `said ${said.kind ?? "text"}`);
  if (said.kind === "reasoning") block.append(element("p", "said-kind", "Thought"));
  if (said.kind === "tool") block.append(element("p", "said-kind", visible(`Calls ${said.name}`)));
  const text = document.createTextNode("");
  const pre = element("pre");
  pre.dir = "auto";
  pre.append(text);
  block.append(pre);
  choice.append(block);
  return text;
}

function messageNode(message) {
  const node = element("div", "message");
  const cut = message.chars ? `, the first ${count(message.content.length)} of ${count(message.chars)} characters` : "";
  const text = element("pre", "", visible(message.content));
  text.dir = "auto";
  node.append(element("p", "message-role", message.role + cut), text);
  return node;
}
