"""Control tokens in a text: which there are, and where.

llama.cpp finds them by itself, in time that grows with the square of their number, and in all of a text
alike. Here the text is cut at them first, in one pass, and what lies between is tokenized as plain text.

Of a vocabulary's user-defined tokens, those that are written like a marker (`<|tool_call>`, `[THINK]`) are
control tokens too: templates put thoughts and calls between them. Others are words, blanks and HTML elements,
which are as good in a message as anywhere.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_HTML = re.compile(
    r"</?(?:a|b|blockquote|body|br|caption|center|code|dd|del|div|dl|dt|em|font|h[1-6]|head|hr|html|i|img|ins"
    r"|kbd|li|link|mark|meta|ol|p|pre|q|s|samp|script|section|small|span|strike|strong|style|sub|sup|svg"
    r"|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul|var)>"
)


class Found(NamedTuple):
    start: int
    end: int
    token: int


class ControlTexts:
    """The texts of one vocabulary's control tokens. Immutable.

    `texts` are those of its control tokens proper, `user_texts` of all that its user has defined.
    """

    def __init__(self, texts: Mapping[str, int], user_texts: Mapping[str, int]) -> None:
        self.tokens = {text: token for text, token in user_texts.items() if _is_marker(text)}
        self.tokens |= {text: token for text, token in texts.items() if _is_visible(text)}
        by_first: dict[str, set[int]] = {}
        for text in self.tokens:
            by_first.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(lengths, reverse=True) for first, lengths in by_first.items()}
        self._first = re.compile(f"[{re.escape(''.join(by_first))}]" if by_first else "(?!)")

    def find(self, text: str) -> Iterator[Found]:
        """Where control texts are, from left to right, the longest first; they do not overlap."""
        tokens, lengths, at = self.tokens, self._lengths, 0
        while (first := self._first.search(text, at)) is not None:
            start = at = first.start()
            for length in lengths[text[start]]:
                token = tokens.get(text[start : start + length])
                if token is not None:
                    at = start + length
                    yield Found(start, at, token)
                    break
            else:
                at += 1


def _is_visible(text: str) -> bool:
    return bool(text) and not text.isspace()


def _is_marker(text: str) -> bool:
    is_edged = not (text[:1].isalnum() or text[:1].isspace() or text[-1:].isalnum() or text[-1:].isspace())
    return len(text) > 2 and is_edged and any(map(str.isalnum, text)) and not _HTML.fullmatch(text.lower())
