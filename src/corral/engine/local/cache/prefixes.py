"""Token sequences that are kept under a number, in the order of their last use: pure.

The number is a sequence of the KV cache or a saved state; cache.py decides what to copy, what to move and
what to forget.
"""

from collections.abc import Iterator

from corral.engine.local.lane import Tokens


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences begin with in common; 5 us for 8,000."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length


def may_share_more(a: Tokens, b: Tokens, length: int) -> bool:
    """Whether two sequences can have more than `length` tokens in common, by a look at one: 0.1 us."""
    return len(a) > length and len(b) > length and bool(a[length] == b[length])


class PrefixIndex:
    """Entries in the order of their last use, the least recent first. A pinned one is never the `oldest`."""

    def __init__(self) -> None:
        self._entries: dict[int, Tokens] = {}
        self._views: dict[int, memoryview] = {}
        """Of the same, in the same order: a token of one is looked at in a third of the time."""
        self._pinned: set[int] = set()
        self.total = 0
        """Tokens of all entries together."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def __contains__(self, entry: int) -> bool:
        return entry in self._entries

    def __getitem__(self, entry: int) -> Tokens:
        return self._entries[entry]

    def add(self, entry: int, tokens: Tokens) -> None:
        """Remember a new entry as the most recently used."""
        self._entries[entry] = tokens
        self._views[entry] = tokens.data
        self.total += len(tokens)

    def touch(self, entry: int) -> None:
        """The entry was used just now."""
        self._entries[entry] = self._entries.pop(entry)
        self._views[entry] = self._views.pop(entry)

    def drop(self, entry: int) -> None:
        """The entry is forgotten, pinned or not."""
        self.total -= len(self._entries.pop(entry))
        del self._views[entry]
        self._pinned.discard(entry)

    @property
    def pinned_total(self) -> int:
        """Tokens of the entries that may not go."""
        return sum(len(self._entries[entry]) for entry in self._pinned)

    def pin(self, entry: int) -> None:
        """Somebody is about to use the entry: it stays until it is unpinned."""
        self._pinned.add(entry)

    def unpin(self, entry: int) -> None:
        """The entry may go again; harmless if it has gone."""
        self._pinned.discard(entry)

    def oldest(self) -> int | None:
        """The least recently used entry that may go; None if there is none."""
        return next((entry for entry in self._entries if entry not in self._pinned), None)

    def prefixes_of(self, tokens: Tokens) -> list[int]:
        """The entries that `tokens` begins with, and that may go."""
        view, size = tokens.data, len(tokens)
        return [
            entry
            for entry, own in self._views.items()
            if (length := len(own)) <= size
            and (not length or own[-1] == view[length - 1])
            and entry not in self._pinned
            and common_prefix(self._entries[entry], tokens) == length
        ]

    def covers(self, tokens: Tokens) -> bool:
        """Whether an entry begins with all of `tokens`."""
        longest = self.longest(tokens, whole_only=False)
        return longest is not None and longest[1] == len(tokens)

    def longest(self, tokens: Tokens, *, whole_only: bool) -> tuple[int, int] | None:
        """The entry that shares the longest prefix, and its length; None if none shares any.

        With `whole_only` an entry counts only if all of it is a prefix: where the memory cannot be cut.
        """
        best: tuple[int, int] | None = None
        view, size, found = tokens.data, len(tokens), 0
        token = view[0] if size else None
        for entry, own in reversed(self._views.items()):  # of several, the most recently used
            if len(own) <= found or own[found] != token:
                continue
            length = common_prefix(self._entries[entry], tokens)
            if length > found and not (whole_only and length < len(own)):
                best, found = (entry, length), length
                if found == size:
                    break
                token = view[found]
        return best
