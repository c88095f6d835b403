"""The `corral` command. It imports what a command needs when that command runs, so help is quick."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from corral import __version__
from corral.errors import StartupError
from corral.printable import one_line, printable, say

Run = Callable[[argparse.Namespace], int]

_DESCRIPTION = "A streaming LLM server that stops when you stop."
_SERVE = "Serve a model over HTTP until interrupted."
_FORMAT = "Show how a chat template writes calls and thoughts, or parse recorded answers by it."
_MODEL = "Show what the model is and where it comes from, without loading its weights."
_SOURCES = (
    "Every flag is also an environment variable (--stall-s is CORRAL_STALL_S) and a key in "
    "corral.toml (stall_s). Flags win over variables, variables over the file."
)
_CONFIG = "TOML file with settings [CORRAL_CONFIG, else corral.toml if there is one]"
_TEMPLATE_LINES = 5


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and fills a command's parser only when that command is used."""

    def __init__(self, *, fill: Callable[["_Parser"], None] | None = None, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._fill = fill

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            close = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, n=1)
            self.error(f"unknown argument {unknown[0]}" + (f"; did you mean {close[0]}?" if close else ""))
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"corral: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 1 where it failed, 2 where it was asked for wrongly."""
    arguments = _parser().parse_args(argv)
    run: Run = arguments.run
    try:
        return run(arguments)
    except StartupError as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(error.strerror or str(error), 1)
    except KeyboardInterrupt:
        return 130


def _parser() -> _Parser:
    parser = _Parser(prog="corral", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"corral {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("serve", help=_SERVE, description=_SERVE, epilog=_SOURCES, fill=_fill_serve)
    commands.add_parser("model", help=_MODEL, description=_MODEL, fill=_fill_model)
    commands.add_parser("format", help=_FORMAT, description=_FORMAT, fill=_fill_format)
    return parser


def _fill_serve(parser: _Parser) -> None:
    from corral import settings

    parser.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    read = settings.add_flags(parser)
    parser.usage = "corral serve [--model MODEL] [--bind HOST:PORT] [FLAGS]"

    def serve(arguments: argparse.Namespace) -> int:
        try:
            loaded = settings.load(read(arguments), config=arguments.config)
        except settings.SettingsError as error:
            return _fail(str(error), 2)
        from corral import server

        return server.main(loaded, reload=lambda: settings.load(read(arguments), config=arguments.config))

    parser.set_defaults(run=serve)


def _fill_model(parser: _Parser) -> None:
    parser.add_argument("--model", metavar="MODEL", help="GGUF file, or hf:OWNER/REPO/FILE.gguf")
    parser.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    parser.add_argument(
        "--template", action="store_true", help="print the whole chat template and nothing else"
    )
    parser.set_defaults(run=_model)


def _fill_format(parser: _Parser) -> None:
    from corral import format_command

    format_command.fill(parser)


def _model(arguments: argparse.Namespace) -> int:
    from corral import settings

    flags = {} if arguments.model is None else {"model": arguments.model}
    try:
        loaded = settings.load(flags, config=arguments.config)
    except settings.SettingsError as error:
        return _fail(str(error), 2)
    from corral.engine.local.llama import modelfile

    model_file = modelfile.resolve(loaded.model)
    description = modelfile.describe(model_file.path)
    template = description.chat_template
    if arguments.template:
        if template is None:
            return _fail(f"{model_file.name} has no chat template", 1)
        say(printable(template), sys.stdout)
        return 0
    rows = {
        "model": model_file.name,
        "source": model_file.source,
        "file": str(model_file.path),
        "architecture": description.architecture,
        "parameters": f"{description.parameters / 1e6:,.0f} million",
        "quantization": description.quantization,
        "size": f"{description.size_bytes / 1e6:,.1f} MB",
        "context": f"{description.train_ctx_tokens:,} tokens in training",
        "template": f"{len(template):,} characters; all of it: corral model --template"
        if template
        else "none",
    }
    if template and model_file.template_fault is None:
        from corral.format_command import learn_source, summary

        rows["calls"] = summary(learn_source(template))
    for label, value in rows.items():
        say(f"{label:<13} {one_line(value)}", sys.stdout)
    lines = printable(template or "").splitlines()
    for line in lines[:_TEMPLATE_LINES]:
        say(f"  {line if len(line) <= 100 else line[:99] + '…'}", sys.stdout)
    if len(lines) > _TEMPLATE_LINES:
        say("  …", sys.stdout)
    if model_file.template_fault is not None:
        return _fail(f"the chat template does not compile: {model_file.template_fault}", 1)
    return 0


def _fail(message: str, code: int) -> int:
    say(f"corral: {one_line(message)}", sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
