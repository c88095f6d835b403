"""The options of each layer, out of the settings."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from corral.settings import Settings
from corral.transport.limits import Limits

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def pick(options: type[Options], settings: Settings, **others: Any) -> Options:
    """The options of one layer: a dataclass whose fields are settings, by the same names; and `others`.

    A field that no setting has is a constant of that layer, which a test may want otherwise.
    """
    names = {own.name for own in fields(options)} & Settings.model_fields.keys()
    return options(**{name: getattr(settings, name) for name in names}, **others)


def limits(settings: Settings) -> Limits:
    """What a connection may cost, as the settings have it."""
    return pick(Limits, settings)
