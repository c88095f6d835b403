"""`corral model`: what a model is, where its file lies, and how much memory it takes."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from corral.printable import one_line, printable, say
from corral.settings import Settings

if TYPE_CHECKING:
    from corral.engine.local.llama.footprint import Footprint
    from corral.engine.local.llama.modelfile import Description, ModelFile

TEMPLATE_LINES = 5


def fill(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its own options."""
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--json", action="store_true", help="print all of it as one JSON object, sizes in bytes"
    )
    shown.add_argument(
        "--template", action="store_true", help="print the whole chat template and nothing else"
    )


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print what the settings' model is; the exit code. Blocks; raises StartupError."""
    from corral.engine.local.llama import modelfile

    model_file = modelfile.resolve(settings.model)
    description = modelfile.describe(model_file.path, settings.kv_type_k, settings.kv_type_v)
    if arguments.template:
        if description.chat_template is None:
            return _fail(f"{model_file.name} has no chat template")
        say(printable(description.chat_template), sys.stdout)
        return 0
    if arguments.json:
        say(json.dumps(_document(model_file, description, settings), indent=2), sys.stdout)
        return 0
    for label, value in _rows(model_file, description, settings).items():
        say(f"{label:<13} {one_line(value)}", sys.stdout)
    lines = printable(description.chat_template or "").splitlines()
    for line in lines[:TEMPLATE_LINES]:
        say(f"  {line if len(line) <= 100 else line[:99] + '…'}", sys.stdout)
    if len(lines) > TEMPLATE_LINES:
        say("  …", sys.stdout)
    if model_file.template_fault is not None:
        return _fail(f"the chat template does not compile: {model_file.template_fault}")
    return 0


def _rows(model_file: "ModelFile", description: "Description", settings: Settings) -> dict[str, str]:
    template = description.chat_template
    rows = {
        "model": model_file.name,
        "source": model_file.source,
        "file": str(model_file.path),
        "architecture": description.architecture,
        "parameters": f"{description.parameters / 1e6:,.0f} million",
        "quantization": description.quantization,
        "size": f"{description.size_bytes / 1e6:,.1f} MB",
        "context": f"{description.train_ctx_tokens:,} tokens in training",
    }
    needed = _memory(description, settings)
    if needed is not None:
        rows["KV cache"] = (
            f"{(description.kv_token_bytes or 0) / 1e3:,.1f} kB a token: "
            f"{needed.kv_cache / 1e6:,.0f} MB for {needed.ctx_tokens:,}"
        )
        rows["memory"] = (
            f"about {needed.shared / 1e9:,.1f} GB with one KV cache for all {needed.slots} slots, "
            f"{needed.per_slot / 1e9:,.1f} GB with one for each"
        )
    rows["template"] = (
        f"{len(template):,} characters; all of it: corral model --template" if template else "none"
    )
    if (calls := _calls(model_file, template)) is not None:
        rows["calls"] = calls
    return rows


def _document(model_file: "ModelFile", description: "Description", settings: Settings) -> dict[str, Any]:
    needed = _memory(description, settings)
    return {
        "model": model_file.name,
        "source": model_file.source,
        "file": str(model_file.path),
        "architecture": description.architecture,
        "parameters": description.parameters,
        "quantization": description.quantization,
        "size_bytes": description.size_bytes,
        "train_ctx_tokens": description.train_ctx_tokens,
        "kv_token_bytes": description.kv_token_bytes,
        "memory": needed
        and {
            "slots": needed.slots,
            "ctx_tokens": needed.ctx_tokens,
            "kv_cache_bytes": needed.kv_cache,
            "shared_bytes": needed.shared,
            "per_slot_bytes": needed.per_slot,
        },
        "chat_template": description.chat_template,
        "template_fault": model_file.template_fault,
        "calls": _calls(model_file, description.chat_template),
    }


def _memory(description: "Description", settings: Settings) -> "Footprint | None":
    from corral.engine.local.llama.footprint import footprint

    return footprint(description, settings.ctx_tokens, settings.slots)


def _calls(model_file: "ModelFile", template: str | None) -> str | None:
    """How the model writes calls; None for a template that is missing, or of no use."""
    if not template or model_file.template_fault is not None:
        return None
    from corral.format_command import learn_source, summary

    return summary(learn_source(template))


def _fail(message: str) -> int:
    say(f"corral: {one_line(message)}", sys.stderr)
    return 1
