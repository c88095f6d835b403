"""What is noted on a view: who may use it, and in which API's shape its errors come."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, TypeVar

from corral.dialects import Errors

F = TypeVar("F", bound=Callable[..., object])

_NAME: Final = "corral_marks"


class Access(Enum):
    """Who may use a route."""

    PUBLIC = auto()
    """Anybody: it says nothing of what goes on. Pages, and what load balancers ask."""
    CLIENT = auto()
    """Who has an API key, where there are any. The default."""
    OPERATOR = auto()
    """Who has the status key; see `operator`."""


@dataclass(frozen=True, slots=True)
class Marks:
    access: Access = Access.CLIENT
    errors: Errors | None = None
    """None: those of the API to which its path belongs; see `dialects.routes`."""


def access(level: Access) -> Callable[[F], F]:
    """Say who may use a route; goes between the route's decorator and its function."""

    def mark(view: F) -> F:
        vars(view)[_NAME] = replace(marks_of(view), access=level)
        return view

    return mark


def speaks(errors: Errors) -> Callable[[F], F]:
    """Say in which API's shape a route's errors come; goes where `access` goes."""

    def mark(view: F) -> F:
        vars(view)[_NAME] = replace(marks_of(view), errors=errors)
        return view

    return mark


def marks_of(view: object) -> Marks:
    """What is noted on a view; the defaults for None, where no route was found."""
    marks = getattr(view, _NAME, None)
    return marks if isinstance(marks, Marks) else Marks()
