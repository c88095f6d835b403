"""The requests that are over: a row of each for a while, the last few whole; and the last refusals."""

from collections import deque

import msgspec

from corral.books.ledger import Refusal
from corral.books.record import Record
from corral.watching import views

HISTORY = 100
REFUSALS = 50
RECENT = 8
"""How many of the finished requests are shown whole, with their content where content is kept at all."""


class History:
    """Bounded in all of them; oldest first."""

    def __init__(self) -> None:
        self._rows: deque[views.Row] = deque(maxlen=HISTORY)
        self._recent: deque[views.Request] = deque(maxlen=RECENT)
        self._refusals: deque[views.Refused] = deque(maxlen=REFUSALS)

    def add(self, record: Record, *, with_content: bool) -> views.Row:
        """Keep a settled request; returns its row."""
        row = views.row(record)
        self._rows.append(row)
        self._recent.append(views.request(record, with_content=with_content))
        if record.outcome == "refused":
            self._refusals.append(views.refused_prompt(record))
        return row

    def refused(self, refusal: Refusal, at: float) -> None:
        """Keep a request that was refused at the door, at that time of day."""
        self._refusals.append(views.refused(refusal, at))

    @property
    def refusals(self) -> list[views.Refused]:
        return list(self._refusals)

    @property
    def rows(self) -> list[views.Row]:
        return list(self._rows)

    def recent(self, *, with_content: bool) -> list[views.Request]:
        """The last ones whole; without content if that is not to be seen."""
        if with_content:
            return list(self._recent)
        return [
            msgspec.structs.replace(request, messages=None, tool_names=None, output=None, draft=None)
            for request in self._recent
        ]
