"""The command line's flags: one for every setting, in groups, and other servers' names for them."""

import argparse
import difflib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import FilePath
from pydantic_settings import CliSettingsSource

from corral.settings import GONE, RENAMED, Settings, flag_name

SECTIONS = {
    "model": "Model",
    "bind": "Network",
    "flash_attn": "Memory and speed",
    "upstream": "Engines elsewhere",
    "queue_requests": "Requests and streams",
    "status_key": "Watching",
    "body_limit_bytes": "Limits of connections",
    "drain_s": "Shutdown and log",
}
"""The help's sections in their order, by the first setting of each: settings are declared by section."""

ALIASES = {
    "model": ("-m",),
    "ctx_tokens": ("-c", "--ctx-size"),
    "threads": ("-t",),
    "gpu_layers": ("-ngl", "--n-gpu-layers"),
    "slots": ("-np", "--parallel"),
    "draft_model": ("-md", "--model-draft"),
    "kv_type_k": ("-ctk", "--cache-type-k"),
    "kv_type_v": ("-ctv", "--cache-type-v"),
    "api_keys": ("--api-key",),
    "certfile": ("--ssl-cert-file",),
    "keyfile": ("--ssl-key-file",),
}
"""llama-server's names, taken for what means the same here."""

ELSEWHERE = {
    "--hf-repo": "--model",
    "-hf": "--model",
    "--max-model-len": "--ctx",
    "--max-num-seqs": "--slots",
    "--num-ctx": "--ctx",
    "--n-predict": "--max-output-tokens",
    "--cors-origins": "--allowed-origins",
    "--ssl-certfile": "--certfile",
    "--ssl-keyfile": "--keyfile",
    "--cors": "--allowed-origins",
    "--metrics": "--status-key",
    "--log-verbosity": "--log-level",
}
"""Flags of other servers that mean something near to one of ours, to be named where they are given."""


def add_flags(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """Give `parser` one flag per setting, and unseen the old ones and others' names for them.

    The result reads what the parser has parsed.
    """
    section_of = dict(_sections())
    groups = {title: parser.add_argument_group(title) for title in SECTIONS.values()}

    def add(_parser: argparse.ArgumentParser, *names: str, **options: Any) -> argparse.Action:
        return _add_flag(groups[section_of[options["dest"]]], *names, **options)

    source: CliSettingsSource[Settings] = CliSettingsSource(
        Settings, root_parser=parser, add_argument_method=add
    )
    hidden = partial(parser.add_argument, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for name in (*RENAMED, *GONE):
        hidden(flag_name(name), dest=name, metavar="OLD")
    for field, names in ALIASES.items():
        hidden(*names, dest=field, metavar=_metavar(field) or field.upper())
    hidden("--host", dest="host", metavar="HOST")
    hidden("--port", dest="port", metavar="PORT")
    beside = (*RENAMED, *GONE, "host", "port")

    def read(arguments: argparse.Namespace) -> dict[str, Any]:
        others = {name: value for name in beside if (value := vars(arguments).get(name)) is not None}
        return {**source(parsed_args=arguments)(), **others}

    return read


def hint(unknown: str, known: Iterable[str]) -> str | None:
    """The flag that somebody meant who gave an `unknown` one: another server's name, or one spelled alike."""
    if unknown in ELSEWHERE:
        return ELSEWHERE[unknown]
    for field, names in ALIASES.items():
        if unknown.lstrip("-") in (name.lstrip("-") for name in names):  # with too many dashes, or too few
            return flag_name(field)
    close = difflib.get_close_matches(unknown, [name for name in known if name.startswith("--")], 1, 0.7)
    return close[0] if close else None


def _sections() -> Iterator[tuple[str, str]]:
    """The section of every setting."""
    section = ""
    for name in Settings.model_fields:
        section = SECTIONS.get(name, section)
        yield name, section


def _metavar(field: str) -> str | None:
    """What stands for the value of a setting in the help; None where argparse's own choices do."""
    info = Settings.model_fields[field]
    named = {"model": "MODEL", "draft_model": "MODEL", "bind": "[HOST:]PORT", "status_key": "KEY"}
    named |= {"upstream": "URLS", "upstream_key": "KEY", "upstreams": "JSON", "models": "JSON"}
    if field in named:
        return named[field]
    unit = field.rpartition("_")[2]
    if unit in ("s", "ms", "tokens", "bytes", "keys", "hosts", "origins"):
        return {"s": "SECONDS", "ms": "MS"}.get(unit, unit.upper())
    if info.annotation is int:
        return "N"
    if info.annotation is bool:
        return "BOOL"
    if info.annotation == Path | None:
        return "FOLDER"
    return "FILE" if info.annotation == FilePath | None else None


def _add_flag(group: Any, *names: str, **options: Any) -> argparse.Action:
    """Add one of pydantic-settings' flags, with a placeholder and a default that people read."""
    field = str(options["dest"])
    info = Settings.model_fields[field]
    if (metavar := _metavar(field)) is not None:
        options["metavar"] = metavar
    if info.annotation is bool:
        options |= {"nargs": "?", "const": "true"}
    default = "" if info.default in (None, (), "") else f" [{info.default}]"
    options["help"] = f"{info.description}{default}".replace("%", "%%")
    # The short form is the documented one, so it goes first.
    action: argparse.Action = group.add_argument(*sorted(names, key=len), **options)
    return action
