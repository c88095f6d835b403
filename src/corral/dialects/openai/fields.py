"""Every field that a chat request may have, by any server's word: what corral does with it.

One table, from which the refusals are made and docs/api.md is written; a test tries each row. The rule: what
changes the text, or what else a client gets, is honoured or refused by name, unless its value asks for what
happens anyway. What promises nothing that a client could notice is accepted. A field of no row passes.

Sources: OpenAI's API reference; `server-schema.cpp` and `server-common.cpp` of llama.cpp's server as in
llama-cpp-python 0.3.36; `ChatCompletionRequest` of vLLM and of SGLang, as of 2026; Ollama's options.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from corral.dialects.fields import Field, Harmless, Honoured, Refused, table

SERVERS: Final = {"O": "OpenAI", "L": "llama-server", "V": "vLLM", "S": "SGLang", "A": "Ollama"}


def _honoured() -> Iterator[Field]:
    yield Honoured("messages", "OLVSA", [], "text of system, developer, user, assistant and tool")
    yield Honoured("model", "OLVSA", "m", "any; there is one")
    yield Honoured("max_completion_tokens", "OLVS", 5, "1 and more; -1: as many as fit")
    yield Honoured("max_tokens", "OLVS", 5, "its older name")
    yield Honoured("n_predict", "L", 5, "the same")
    yield Honoured("num_predict", "A", 5, "the same; -2 as -1")
    yield Honoured("temperature", "OLVSA", 0.5, "0 to 2; 0 takes the likeliest")
    yield Honoured("dynatemp_range", "L", 0.5, "0 to 2: the temperature moves so far with the entropy")
    yield Honoured("dynatemp_exponent", "L", 2, "0 to 10")
    yield Honoured("top_p", "OLVSA", 0.5, "0 to 1")
    yield Honoured("top_k", "LVSA", 7, "-1 and more; -1 and 0 turn it off")
    yield Honoured("min_p", "LVSA", 0.5, "0 to 1")
    yield Honoured("typical_p", "LA", 0.5, "0 to 1")
    yield Honoured("top_n_sigma", "L", 1, "-1 to 100; -1 and 0 turn it off")
    yield Honoured("xtc_probability", "L", 0.5, "0 to 1")
    yield Honoured("xtc_threshold", "L", 0.2, "0 to 1")
    yield Honoured("repeat_penalty", "LA", 1.2, "above 0, up to 10")
    yield Honoured("repetition_penalty", "VS", 1.2, "the same over prompt and answer; not with the one above")
    yield Honoured("repeat_last_n", "LA", 10, "-1 and more: how far penalties look back; -1: over everything")
    yield Honoured("frequency_penalty", "OLVSA", 1, "-2 to 2, over the last 64 tokens or `repeat_last_n`")
    yield Honoured("presence_penalty", "OLVSA", 1, "-2 to 2, over the same")
    yield Honoured("dry_multiplier", "L", 0.8, "0 to 100; 0 turns it off, and the four below with it")
    yield Honoured("dry_base", "L", 2, "below 1: 1.75")
    yield Honoured("dry_allowed_length", "L", 3, "tokens that may be repeated")
    yield Honoured("dry_penalty_last_n", "L", 100, "how far it looks back: 64; -1: over everything")
    yield Honoured("dry_sequence_breakers", "L", ["x"], "up to 8, of 1 to 10 characters each")
    yield Honoured("mirostat", "LA", 2, "0, 1, 2; takes 3.5 ms a token with 49,152 tokens")
    yield Honoured("mirostat_tau", "LA", 3, "0 to 100")
    yield Honoured("mirostat_eta", "LA", 0.2, "0 to 10")
    yield Honoured("logit_bias", "OLVS", {"5": 1}, "token ids to -100 to 100")
    yield Honoured("seed", "OLVSA", 3, "64 bits, signed; -1: at random")
    yield Honoured("stop", "OLVSA", "x", "a string or up to 16, of 1 to 256 characters each")
    yield Honoured("stop_token_ids", "VS", [5], "up to 64, which end an answer as the model's own end does")
    yield Honoured("include_stop_str_in_output", "V", True, "the text has the stop string that ended it")
    yield Honoured("no_stop_trim", "S", True, "the same")
    yield Honoured("ignore_eos", "LVS", True, "the model does not end by itself")
    yield Honoured("min_tokens", "VS", 3, "no end of the model's and no `stop_token_ids` before")
    yield Honoured(
        "skip_special_tokens", "VS", False, "false: names of control tokens are text of the answer"
    )
    yield Honoured("n", "OLVS", 2, "1 to 128, and at most the number of slots")
    yield Honoured("n_cmpl", "L", 2, "the same")
    yield Honoured("logprobs", "OVS", True, "")
    yield Honoured("top_logprobs", "OVS", 2, "0 to 20, and only with `logprobs: true`")
    yield Honoured("stream", "OLVSA", True, "")
    yield Honoured("stream_options", "OLVS", {"include_usage": True}, "`include_usage`, with `stream: true`")
    yield Honoured("return_progress", "L", True, "where a streamed request is, until it answers: see below")
    yield Honoured("priority", "VS", 1, "the lower the sooner, among the requests of one key")
    # Tools, thoughts, structure
    call = {"type": "function", "function": {"name": "f"}}
    yield Honoured("tools", "OLVSA", [call], "functions, and custom tools with free text")
    yield Honoured("tool_choice", "OLVS", "none", "auto, none, required, a named tool, or some allowed")
    yield Honoured("parallel_tool_calls", "OLVS", False, "false: the answer ends with its first call")
    yield Honoured(
        "response_format", "OLVS", {"type": "json_object"}, "text, json_object, json_schema, grammar"
    )
    yield Honoured("json_schema", "L", {}, "the same")
    yield Honoured("guided_json", "V", {}, "the same")
    yield Honoured("structured_outputs", "V", {"regex": "a+"}, "json, regex, choice, grammar or json_object")
    yield Honoured("guided_regex", "V", "a+", "all of the answer matches it")
    yield Honoured("regex", "S", "a+", "the same")
    yield Honoured("guided_choice", "V", ["a", "b"], "one of these texts")
    yield Honoured("guided_grammar", "V", 'start: "a"', "Lark as llguidance has it, or GBNF")
    yield Honoured("grammar", "L", 'root ::= "a"', "GBNF, or Lark")
    yield Honoured("ebnf", "S", 'root ::= "a"', "the same")
    yield Honoured(
        "reasoning_effort", "OLVS", "low", "`none` turns thinking off; else as the template takes it"
    )
    yield Honoured(
        "chat_template_kwargs", "LVS", {"a": 1}, "variables of the template, such as `enable_thinking`"
    )
    yield Honoured("thinking_token_budget", "V", 5, "after so much thought the answer is begun")
    yield Honoured("thinking_budget_tokens", "L", 5, "the same; -1: no budget")
    yield Honoured("reasoning_budget_tokens", "L", 5, "the same")


def _harmless() -> Iterator[Field]:
    yield Harmless("user", "OVS", "u", "")
    yield Harmless("metadata", "O", {"a": "b"}, "")
    yield Harmless("store", "O", True, "nothing is stored")
    yield Harmless("service_tier", "O", "flex", "there is one")
    yield Harmless("safety_identifier", "O", "s", "")
    yield Harmless("prompt_cache_key", "O", "k", "prefixes are found by their tokens")
    yield Harmless("prompt_cache_options", "O", {"mode": "implicit"}, "")
    yield Harmless("prompt_cache_retention", "O", "24h", "")
    yield Harmless("prediction", "O", {"type": "content", "content": "x"}, "a hint")
    yield Harmless("verbosity", "O", "high", "a hint")
    yield Harmless("cache_prompt", "L", False, "a prefix that is reused says the same")
    yield Harmless("n_cache_reuse", "L", 1, "")
    yield Harmless("id_slot", "L", 0, "slots are given out in turn")
    yield Harmless("n_keep", "LA", 1, "the context is never shifted")
    yield Harmless("num_keep", "A", 1, "")
    yield Harmless("n_discard", "L", 1, "")
    yield Harmless("sse_ping_interval", "L", 1, "see --stream-keepalive-s")
    yield Harmless("backend_sampling", "L", True, "")
    yield Harmless("speculative.n_max", "L", 4, "drafts change no text")
    yield Harmless("speculative.n_min", "L", 1, "")
    yield Harmless("speculative.p_min", "L", 0.5, "")
    yield Harmless("speculative.type", "L", "none", "")
    yield Harmless("spaces_between_special_tokens", "V", False, "there are none")
    yield Harmless("continue_final_message", "LVS", True, "a last assistant message is continued anyway")
    yield Harmless("request_id", "V", "r", "the answer has an id of its own")
    yield Harmless("rid", "S", "r", "")
    yield Harmless("extra_key", "S", "r", "")
    yield Harmless("cache_salt", "VS", "r", "")
    yield Harmless("session_id", "VS", "s", "")
    yield Harmless("keep_alive", "A", "5m", "the model stays")
    yield Harmless("num_batch", "A", 1, "")
    yield Harmless("num_gpu", "A", 1, "")
    yield Harmless("main_gpu", "A", 1, "")
    yield Harmless("num_thread", "A", 1, "")
    yield Harmless("low_vram", "A", True, "")
    yield Harmless("use_mmap", "A", True, "")
    yield Harmless("use_mlock", "A", True, "")
    yield Harmless("numa", "A", True, "")


def _refused() -> Iterator[Field]:
    no: tuple[Any, ...] = (False,)
    empty: tuple[Any, ...] = ([],)
    # What another answer would have to be made for
    yield Refused("functions", "O", [{}], "", empty)
    yield Refused("function_call", "O", "auto", "", ("none",))
    yield Refused("format", "A", "json", "")
    yield Refused("grammar_lazy", "L", True, "", no)
    yield Refused("grammar_triggers", "L", [{}], "", empty)
    yield Refused("preserved_tokens", "L", ["a"], "", empty)
    yield Refused("stop_regex", "S", "a", "", (*empty, ""))
    yield Refused("allowed_token_ids", "V", [1], "")
    yield Refused("bad_words", "V", ["a"], "", empty)
    yield Refused("custom_logit_processor", "S", "a", "")
    yield Refused("custom_params", "S", {"a": 1}, "", ({},))
    yield Refused("logits_processors", "V", ["a"], "", empty)
    yield Refused("lora", "L", [{"id": 0}], "", empty)
    yield Refused("lora_path", "S", "a", "")
    yield Refused("repetition_detection", "V", {}, "")
    yield Refused("watermarking", "V", True, "", no)
    # How the prompt is made
    yield Refused("chat_template", "LV", "x", "the model's own is used")
    yield Refused("template", "A", "x", "")
    yield Refused("system", "A", "x", "it is a message here", ("",))
    yield Refused("suffix", "A", "x", "", ("",))
    yield Refused("raw", "A", True, "", no)
    yield Refused("images", "A", ["x"], "", empty)
    yield Refused("context", "A", [1], "", empty)
    yield Refused("documents", "V", [{}], "", empty)
    yield Refused(
        "add_generation_prompt", "LV", False, "or behind an assistant's message, which is continued", (True,)
    )
    yield Refused("add_special_tokens", "V", True, "the template says which there are", no)
    yield Refused("echo", "LV", True, "", no)
    yield Refused("input_ids", "S", [1], "")
    yield Refused("task", "S", "title", "")
    yield Refused("truncate_prompt_tokens", "V", 5, "a prompt that does not fit is refused")
    yield Refused("truncation_side", "V", "left", "")
    yield Refused("truncate", "A", True, "", no)
    yield Refused("shift", "A", True, "", no)
    yield Refused("num_ctx", "A", 2048, "see --ctx-tokens")
    # What it thinks
    yield Refused("reasoning_format", "L", "deepseek", "", ("none", "auto"))
    yield Refused("reasoning_control", "L", True, "", no)
    yield Refused("include_reasoning", "V", False, "", (True,))
    yield Refused("separate_reasoning", "S", False, "", (True,))
    yield Refused("stream_reasoning", "S", False, "", (True,))
    yield Refused("think", "A", True, "", no)
    yield Refused("parse_tool_calls", "L", True, "", no)
    # How it is picked
    yield Refused("best_of", "V", 2, "", (1,))
    yield Refused("use_beam_search", "V", True, "", no)
    yield Refused("length_penalty", "V", 2, "", (1,))
    yield Refused("samplers", "L", ["top_k"], "their order is llama.cpp's own")
    yield Refused("min_keep", "L", 2, "", (0, 1))
    yield Refused("adaptive_target", "L", 0.5, "", (-1,))
    yield Refused("adaptive_decay", "L", 0.5, "")
    yield Refused("tfs_z", "A", 0.5, "", (1,))
    yield Refused("penalize_newline", "A", False, "", (True,))
    yield Refused("options", "A", {"top_k": 1}, "they stand in the body itself here", ({},))
    yield Refused("n_indent", "L", 2, "", (0,))
    yield Refused("t_max_predict_ms", "L", 10, "see --request-deadline-s", (-1, 0))
    # What comes with the text
    yield Refused("modalities", "O", ["text", "audio"], "", (["text"],))
    yield Refused("audio", "O", {"voice": "x", "format": "wav"}, "")
    yield Refused("web_search_options", "O", {}, "")
    yield Refused("moderation", "O", {"model": "m"}, "")
    yield Refused("n_probs", "L", 5, "see `top_logprobs`", (0,))
    yield Refused("post_sampling_probs", "L", True, "", no)
    yield Refused("prompt_logprobs", "V", 1, "")
    yield Refused("logprob_token_ids", "V", [1], "")
    yield Refused("return_tokens_as_token_ids", "V", True, "", no)
    yield Refused("return_token_ids", "VS", True, "", no)
    yield Refused("return_tokens", "L", True, "", no)
    yield Refused("return_prompt_text", "V", True, "", no)
    yield Refused("return_prompt_token_ids", "S", True, "", no)
    yield Refused("return_hidden_states", "S", True, "", no)
    yield Refused("return_routed_experts", "S", True, "", no)
    yield Refused("return_meta_info", "S", True, "", no)
    yield Refused("return_cached_tokens_details", "S", True, "", no)
    yield Refused("timings_per_token", "L", True, "", no)
    yield Refused("response_fields", "L", ["a"], "", empty)
    yield Refused("verbose", "L", True, "", no)
    yield Refused("kv_transfer_params", "V", {}, "")
    yield Refused("mm_processor_kwargs", "V", {"a": 1}, "", ({},))


FIELDS: Final[tuple[Field, ...]] = (*_honoured(), *_harmless(), *_refused())
REFUSED: Final = {field.name: field for field in FIELDS if isinstance(field, Refused)}


def as_markdown(fields: Sequence[Field] = FIELDS) -> str:
    """The table as it is in docs/api.md."""
    return table(fields, SERVERS)
