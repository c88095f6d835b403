"""Token sequences that are kept under a number, in the order of their last use: pure.

The number is a sequence of the KV cache or a saved state; cache.py decides what to copy, what to move and
what to forget. They lie in a radix tree, so a look takes as long with hundreds of them as with one: only
where sequences part are there nodes. (SGLang's RadixAttention keeps its cache in one, too.)
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from corral.engine.local.lane import Tokens


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences begin with in common; 5 us for 8,000."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length


def may_share_more(a: Tokens, b: Tokens, length: int) -> bool:
    """Whether two sequences can have more than `length` tokens in common, by a look at one: 0.1 us."""
    return len(a) > length and len(b) > length and bool(a[length] == b[length])


@dataclass(slots=True, eq=False)
class _Node:
    """What some entries have in common: their first `stop` tokens; its `parent` has fewer of these.

    Its tokens are those of any entry below it, so it has none of its own.
    """

    stop: int
    parent: "_Node | None"
    below: dict[int, None] = field(default_factory=dict)
    """All that begin so, the least recently used first."""
    ends: dict[int, None] = field(default_factory=dict)
    """Those that say no more than that, in the same order."""
    children: dict[int, "_Node"] = field(default_factory=dict)
    """What comes next, by its first token."""

    @property
    def newest(self) -> int:
        return next(reversed(self.below))

    def path(self) -> Iterator["_Node"]:
        """From here to the root."""
        node: _Node | None = self
        while node is not None:
            yield node
            node = node.parent


class PrefixIndex:
    """Entries in the order of their last use, the least recent first. A pinned one is never the `oldest`."""

    def __init__(self) -> None:
        self._entries: dict[int, Tokens] = {}
        self._nodes: dict[int, _Node] = {}
        """Where each ends."""
        self._root = _Node(0, None)
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
        node, parting, shared = self._descend(tokens)
        if parting is not None:
            node = self._split(parting, shared)
        if shared < len(tokens):
            leaf = node.children[int(tokens[shared])] = _Node(len(tokens), node)
            node = leaf
        node.ends[entry] = None
        for each in node.path():
            each.below[entry] = None
        self._entries[entry] = tokens
        self._nodes[entry] = node
        self.total += len(tokens)

    def touch(self, entry: int) -> None:
        """The entry was used just now."""
        self._entries[entry] = self._entries.pop(entry)
        node = self._nodes[entry]
        node.ends[entry] = node.ends.pop(entry)
        for each in node.path():
            each.below[entry] = each.below.pop(entry)

    def drop(self, entry: int) -> None:
        """The entry is forgotten, pinned or not."""
        tokens, node = self._entries.pop(entry), self._nodes.pop(entry)
        self.total -= len(tokens)
        self._pinned.discard(entry)
        del node.ends[entry]
        for each in node.path():
            del each.below[entry]
        if not node.below and node.parent is not None:
            node = node.parent
            del node.children[int(tokens[node.stop])]
        if not node.ends and len(node.children) == 1 and node.parent is not None:
            [child] = node.children.values()  # nothing parts here any more
            child.parent = node.parent
            node.parent.children[int(tokens[node.parent.stop])] = child

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
        node, _, _ = self._descend(tokens)
        return [entry for each in node.path() for entry in each.ends if entry not in self._pinned]

    def covers(self, tokens: Tokens) -> bool:
        """Whether an entry begins with all of `tokens`."""
        longest = self.longest(tokens, whole_only=False)
        return longest is not None and longest[1] == len(tokens)

    def longest(self, tokens: Tokens, *, whole_only: bool) -> tuple[int, int] | None:
        """The entry that shares the longest prefix, of several the most recently used, and its length; None
        if none shares any.

        With `whole_only` an entry counts only if all of it is a prefix: where the memory cannot be cut.
        """
        node, parting, shared = self._descend(tokens)
        if whole_only:
            whole = next((each for each in node.path() if each.ends), self._root)
            return (next(reversed(whole.ends)), whole.stop) if whole.stop else None
        return ((parting or node).newest, shared) if shared else None

    def _descend(self, tokens: Tokens) -> tuple[_Node, _Node | None, int]:
        """The last node that `tokens` begin with all of, the child of it that they share only some of, if
        any, and how many tokens they share with the last of these."""
        node = self._root
        while (shared := node.stop) < len(tokens):
            child = node.children.get(int(tokens[shared]))
            if child is None:
                break
            shared += common_prefix(self._entries[child.newest][shared : child.stop], tokens[shared:])
            if shared < child.stop:
                return node, child, shared
            node = child
        return node, None, shared

    def _split(self, node: _Node, stop: int) -> _Node:
        """A node between this one and its parent, where others part from it."""
        tokens, parent = self._entries[node.newest], node.parent
        assert parent is not None, "nothing parts before the root"
        upper = _Node(stop, parent, dict(node.below))
        parent.children[int(tokens[parent.stop])] = upper
        upper.children[int(tokens[stop])] = node
        node.parent = upper
        return upper
