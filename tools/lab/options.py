"""What an engine is told: the same as by `corral serve` with the same flags."""

from argparse import ArgumentParser
from collections.abc import Sequence

from corral.engine.local.options import EngineOptions


def engine_options(flags: Sequence[str], slots: int) -> EngineOptions:
    """The options of an engine of so many slots. Raises SettingsError, and SystemExit for no flag of ours."""
    from corral.flags import add_flags
    from corral.settings import load
    from corral.wiring.options import pick  # it takes a second, and few figures need it

    parser = ArgumentParser(prog="bench policy --", allow_abbrev=False)
    source = add_flags(parser)
    return pick(EngineOptions, load({**source(parser.parse_args(list(flags))), "slots": slots}))
