"""Every field that a request of `POST /v1/completions` may have: what corral does with it. See `fields`.

Sources: OpenAI's API reference; `CompletionRequest` of vLLM and of SGLang, as of 2026; llama-server's
`/v1/completions`, as in llama-cpp-python 0.3.36.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from corral.dialects.fields import Field, Honoured, Refused
from corral.dialects.openai.fields import FIELDS
from corral.dialects.openai.sampling import LIMITS
from corral.dialects.openai.structure import GrammarFields

_AS_IN_CHAT: Final = {field.name: field for field in FIELDS}
_HARMLESS_AS_IN_CHAT: Final = (
    *("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "cache_prompt"),
    *("n_cache_reuse", "id_slot", "n_keep", "num_keep", "n_discard", "sse_ping_interval"),
    *("backend_sampling", "speculative.n_max", "speculative.n_min", "speculative.p_min", "speculative.type"),
    *("spaces_between_special_tokens", "request_id", "rid", "extra_key", "cache_salt", "session_id"),
    *("keep_alive", "num_batch", "num_gpu", "main_gpu", "num_thread", "low_vram", "use_mmap", "use_mlock"),
    "numa",
)


def _honoured() -> Iterator[Field]:
    yield Honoured(
        "prompt", "OLVSA", [1], "a text, a list of texts, token ids, or a list of such lists; see below"
    )
    yield Honoured("model", "OLVSA", "m", "any; there is one")
    yield Honoured("suffix", "OLVA", "x", "where the model has tokens for filling in the middle, else 400")
    yield Honoured("parse_special", "", True, "names of control tokens in prompt and suffix become those")
    yield Honoured("echo", "OVS", True, "the text begins with the prompt, and `logprobs` with its tokens")
    yield Honoured(
        "max_tokens", "OLVS", 5, "16; 1 and more, -1: as many as fit; 0 with `echo` and `logprobs`"
    )
    for name in LIMITS:
        if name != "max_tokens":
            yield Honoured(name, _AS_IN_CHAT[name].servers, 5, "the same")
    yield Honoured("n", "OLVS", 2, "of each prompt: 1 to 128, and at most the number of slots")
    yield Honoured("n_cmpl", "L", 2, "the same")
    yield Honoured("best_of", "OV", 2, "as `n`: so many, of which the `n` likeliest by token come; no stream")
    yield Honoured("logprobs", "OVS", 2, "0 to 20: the chosen token's and so many likeliest")
    yield Honoured("stream", "OLVSA", True, "")
    yield Honoured("stream_options", "OLVS", {"include_usage": True}, "`include_usage`, with `stream: true`")
    yield Honoured("return_progress", "L", True, "as for chat completions")
    yield Honoured("priority", "VS", 1, "as for chat completions")
    yield Honoured("no_stop_trim", "S", True, "as `include_stop_str_in_output`")
    own = {*LIMITS, "response_format"}
    yield replace(_AS_IN_CHAT["response_format"], servers="LVS")  # OpenAI has it for conversations alone
    for name in GrammarFields.__struct_fields__:
        if name not in own:
            yield _AS_IN_CHAT[name]


def _harmless() -> Iterator[Field]:
    for name in _HARMLESS_AS_IN_CHAT:
        yield _AS_IN_CHAT[name]


def _refused() -> Iterator[Field]:
    no: tuple[Any, ...] = (False,)
    empty: tuple[Any, ...] = ([],)
    # What the answer may be
    yield Refused("format", "A", "json", "")
    yield Refused("tools", "L", [{}], "they are for conversations", empty)
    yield Refused("stop_regex", "S", "a", "", (*empty, ""))
    yield Refused("allowed_token_ids", "V", [1], "")
    yield Refused("bad_words", "V", ["a"], "", empty)
    yield Refused("custom_logit_processor", "S", "a", "")
    yield Refused("custom_params", "S", {"a": 1}, "", ({},))
    yield Refused("logits_processors", "V", ["a"], "", empty)
    yield Refused("vllm_xargs", "V", {"a": 1}, "", ({},))
    yield Refused("lora", "L", [{"id": 0}], "", empty)
    yield Refused("lora_path", "S", "a", "")
    yield Refused("repetition_detection", "V", {}, "")
    # How the prompt is made
    yield Refused("messages", "OLVS", [{}], "they are for `/v1/chat/completions`")
    yield Refused("prompt_embeds", "V", "x", "")
    yield Refused("input_prefix", "L", "x", "it is the `prompt`", ("",))
    yield Refused("input_suffix", "L", "x", "it is the `suffix`", ("",))
    yield Refused("input_extra", "L", [{}], "", empty)
    yield Refused("multimodal_data", "L", ["x"], "", empty)
    yield Refused("images", "A", ["x"], "", empty)
    yield Refused("context", "A", [1], "a list of token ids is a `prompt`", empty)
    yield Refused("system", "A", "x", "", ("",))
    yield Refused("template", "A", "x", "")
    yield Refused("raw", "A", False, "every prompt is", (True,))
    yield Refused("add_special_tokens", "V", False, "a list of token ids is taken as it is", (True,))
    yield Refused("truncate_prompt_tokens", "V", 5, "a prompt that does not fit is refused")
    yield Refused("truncation_side", "V", "left", "")
    yield Refused("truncate", "A", True, "", no)
    yield Refused("shift", "A", True, "", no)
    yield Refused("num_ctx", "A", 2048, "see --ctx-tokens")
    yield Refused("think", "A", True, "", no)
    # How it is picked
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
    yield Refused("n_probs", "L", 5, "see `logprobs`", (0,))
    yield Refused("post_sampling_probs", "L", True, "", no)
    yield Refused("prompt_logprobs", "V", 1, "")
    yield Refused("return_tokens_as_token_ids", "V", True, "", no)
    yield Refused("return_token_ids", "V", True, "", no)
    yield Refused("return_tokens", "L", True, "see `/tokenize`", no)
    yield Refused("return_hidden_states", "S", True, "", no)
    yield Refused("timings_per_token", "L", True, "", no)
    yield Refused("response_fields", "L", ["a"], "", empty)
    yield Refused("verbose", "L", True, "", no)
    yield Refused("kv_transfer_params", "V", {}, "")


COMPLETION_FIELDS: Final[tuple[Field, ...]] = (*_honoured(), *_harmless(), *_refused())
COMPLETION_REFUSED: Final = {field.name: field for field in COMPLETION_FIELDS if isinstance(field, Refused)}
