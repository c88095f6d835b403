"""The `corral` command. It imports what a command needs when that command runs, so help is quick."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from corral import __version__
from corral.errors import StartupError
from corral.printable import one_line, say

Run = Callable[[argparse.Namespace], int]

_DESCRIPTION = "A streaming LLM server that stops when you stop."
_SERVE = "Serve a model over HTTP until interrupted."
_FORMAT = "Show how a chat template writes calls and thoughts, or parse recorded answers by it."
_MODEL = "Show what the model is and where it comes from, without loading its weights."
_LOADTEST = "Put load on any OpenAI-compatible server, and report what its clients saw."
_SOURCES = """\
Every flag is also an environment variable (--stall-s is CORRAL_STALL_S) and a key in
corral.toml (stall_s). Flags win over variables, variables over the file. Sizes may
be written as 8k or 2g. llama-server's -m, -c, -t, -ngl, -np, --host and --port are
understood too.

examples:
  corral serve model.gguf
  corral serve hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF/qwen2.5-1.5b-instruct-q4_k_m.gguf
  corral serve model.gguf --ctx 16k --slots 4 --bind 9000
  CORRAL_API_KEYS=... corral serve model.gguf --bind 0.0.0.0:8000
"""
_CONFIG = "TOML file with settings [CORRAL_CONFIG, else corral.toml if there is one]"


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
            from corral import flags

            close = flags.hint(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unknown argument {unknown[0]}" + (f"; did you mean {close}?" if close else ""))
        return namespace, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action.choices, dict) and value not in action.choices:  # a command
            close = difflib.get_close_matches(value, action.choices, n=1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(action.choices)}"
            self.error(f"there is no command {value}; {meant}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"corral: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 1 where it failed, 2 where it was asked for wrongly."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    if not argv:
        parser.print_help()
        return 0
    if argv[0] == "loadtest":  # it parses its own arguments
        return _loadtest(argv[1:])
    arguments = parser.parse_args(argv)
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
    commands.add_parser(
        "serve",
        help=_SERVE,
        description=_SERVE,
        epilog=_SOURCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        fill=_fill_serve,
    )
    commands.add_parser("model", help=_MODEL, description=_MODEL, fill=_fill_model)
    commands.add_parser("format", help=_FORMAT, description=_FORMAT, fill=_fill_format)
    commands.add_parser("loadtest", help=_LOADTEST, add_help=False)
    return parser


def _fill_serve(parser: _Parser) -> None:
    from corral import flags, settings

    _add_model(parser)
    parser.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    read = flags.add_flags(parser)
    parser.usage = "corral serve [MODEL] [--bind [HOST:]PORT] [FLAGS]"

    def serve(arguments: argparse.Namespace) -> int:
        try:
            loaded = settings.load(_with_model(read(arguments), arguments), config=arguments.config)
        except settings.SettingsError as error:
            return _fail(str(error), 2)
        from corral import server

        return server.main(loaded, reload=lambda: settings.load(read(arguments), config=arguments.config))

    parser.set_defaults(run=serve)


def _fill_model(parser: _Parser) -> None:
    from corral import model_command

    _add_model(parser)
    parser.add_argument("--model", "-m", metavar="MODEL", help="the same as MODEL")
    parser.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    model_command.fill(parser)

    def model(arguments: argparse.Namespace) -> int:
        from corral import settings

        flags = {} if arguments.model is None else {"model": arguments.model}
        try:
            loaded = settings.load(_with_model(flags, arguments), config=arguments.config)
        except settings.SettingsError as error:
            return _fail(str(error), 2)
        return model_command.run(loaded, arguments)

    parser.set_defaults(run=model)


def _fill_format(parser: _Parser) -> None:
    from corral import format_command

    format_command.fill(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "named",
        nargs="?",
        metavar="MODEL",
        help="GGUF file, hf:OWNER/REPO/FILE.gguf, or that file's URL on huggingface.co",
    )


def _with_model(flags: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags with the model that was named without one. Raises SettingsError if two are named."""
    if arguments.named is None:
        return flags
    if "model" in flags:
        from corral.settings import SettingsError

        raise SettingsError(f"which model, {arguments.named} or {flags['model']}? name one")
    return {**flags, "model": arguments.named}


def _loadtest(argv: Sequence[str]) -> int:
    from corral.assets import tools_folder

    # Its packages are imported as `tools.…`, wherever they lie.
    sys.path.insert(0, str(tools_folder().parent))
    from tools.commands import loadtest

    return loadtest.main(argv)


def _fail(message: str, code: int) -> int:
    say(f"corral: {one_line(message)}", sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
