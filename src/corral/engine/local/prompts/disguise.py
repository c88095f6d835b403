"""A client's text, such that it cannot become a control token whatever a template does to it.

A template may cut, join, reverse or escape what it is given, and puts it next to texts of its own. In what it
wrote, `<|im_end|>` looks the same whether it comes from the template, from one message, or half from one and
half from another. So before rendering, some characters of the client's strings are replaced, one for one, by
characters that nobody uses (Unicode's last two planes are for private use), and put back afterwards:

- lightly: the characters that control texts begin and end with, such as `<` and `]`. Then none can begin or
  end in the client's text. All else is as it was: a template finds what it looks for.
- fully: every character that control texts are made of. Then none can touch the client's text at all, but to
  a template it is words it has never seen. What it knows as words (`string`, `/no_think`) is spared.

The order, the length and the blanks of a text stay as they are, and equal strings stay equal.
"""

import re
from collections.abc import Iterable

from corral.engine.local.prompts.control import ControlTexts
from corral.errors import InvalidRequest
from corral.templates.sought import Sought

PRIVATE = range(0xF0000, 0x110000)
_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")
_UNTOUCHED = frozenset("\"\\'")  # JSON writes them in other ways, which is for the template to do
FOLDED = frozenset(
    "\xdf\u0130\u0131\u0149\u017f\u01f0\u1e96\u1e97\u1e98\u1e99\u1e9a\u1e9e\u212a"
    "\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06"
)
"""Characters that are ASCII letters when written in the other case, or nearly."""

_SHORT_CHARS = 256

_SCHEMA_WORDS = frozenset(
    [
        "additionalProperties",
        "allOf",
        "anyOf",
        "array",
        "boolean",
        "const",
        "default",
        "definitions",
        "description",
        "enum",
        "examples",
        "format",
        "function",
        "integer",
        "items",
        "maxItems",
        "maxLength",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "name",
        "not",
        "null",
        "nullable",
        "number",
        "object",
        "oneOf",
        "parameters",
        "pattern",
        "prefixItems",
        "properties",
        "required",
        "strict",
        "string",
        "title",
        "type",
    ]
)


class Wardrobe:
    """What disguises for the control texts of one vocabulary are made of. Immutable.

    `sought` is what the template looks for: words to compare with, and parts to find in other texts.
    """

    def __init__(self, control: ControlTexts, sought: Sought) -> None:
        texts = sorted(control.tokens)
        whole = "\n".join(texts).casefold()
        letters = {char for text in texts for char in text if not char.isspace()}
        letters |= {case for char in letters for case in (char.lower(), char.upper()) if len(case) == 1}
        self.alphabet = sorted((letters | FOLDED) - _UNTOUCHED)
        self.edges = sorted({edge for text in texts for edge in (text[0], text[-1]) if _is_edge(edge)})
        self.edgeless = [text for text in texts if not (_is_edge(text[0]) or _is_edge(text[-1]))]

        def is_harmless(text: str) -> bool:
            return text.casefold() not in whole and not any(edge in text for edge in self.edges)

        self.words = frozenset(filter(is_harmless, sought.words)) | _SCHEMA_WORDS
        self.parts = [part for part in sorted(sought.parts, key=len, reverse=True) if is_harmless(part)]

    def disguise(self, texts: Iterable[str]) -> "Disguise":
        """One of characters that are in none of these texts. Raises InvalidRequest where there are none."""
        used = {char for text in texts if not text.isascii() for char in _PRIVATE.findall(text)}
        size = len(self.alphabet)
        for start in range(PRIVATE.start, PRIVATE.stop - size, size + 1):
            masks = [chr(code) for code in range(start, start + size)]
            if used.isdisjoint(masks):
                return Disguise(self, dict(zip(self.alphabet, masks, strict=True)))
        raise InvalidRequest("the messages use all of Unicode's characters for private use", param="messages")


class Disguise:
    """The disguise of one request."""

    def __init__(self, wardrobe: Wardrobe, masks: dict[str, str]) -> None:
        self._wardrobe = wardrobe
        self._masks = masks
        self._edges = [(edge, masks[edge]) for edge in wardrobe.edges]
        self._to_masks = str.maketrans(masks)
        self._to_faces = str.maketrans({mask: face for face, mask in masks.items()})
        self._is_masked = re.compile(f"[{min(masks.values())}-{max(masks.values())}]" if masks else "(?!)")

    def light(self, text: str) -> str:
        """No control text begins or ends in it."""
        for edge, mask in self._edges:
            if edge in text:
                text = text.replace(edge, mask)
        for word in self._wardrobe.edgeless:
            if word in text:
                text = text.replace(word, word.translate(self._to_masks))
        return text

    def full(self, text: str) -> str:
        """No character of it but blanks and quotes is in any control text, but for words of the template."""
        if text in self._wardrobe.words:
            return text
        parts = [part for part in self._wardrobe.parts if part in text]
        if not parts:
            return text.translate(self._to_masks)
        pieces = re.split(f"({'|'.join(map(re.escape, parts))})", text)
        pieces[::2] = [piece.translate(self._to_masks) for piece in pieces[::2]]
        return "".join(pieces)

    def full_short(self, text: str) -> str:
        """As `full`, without most of a long text: to see what a template does with it, not what it writes."""
        if len(text) > _SHORT_CHARS:
            half = _SHORT_CHARS // 2
            known = [part for part in self._wardrobe.parts if part in text]
            text = " ".join((text[:half], *known, text[-half:]))
        return self.full(text)

    def reveal(self, text: str) -> str:
        """The text as it was."""
        if text.isascii() or not self._is_masked.search(text):
            return text
        return text.translate(self._to_faces)


def _is_edge(char: str) -> bool:
    return not (char.isalnum() or char.isspace() or char in _UNTOUCHED)
