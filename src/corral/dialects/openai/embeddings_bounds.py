"""What an `input` of too many texts or tokens is refused by: counted in its JSON, before anything is built.

Sixteen megabytes of `[1],` would be four million lists: seconds in which no other thread runs, to be told
that they are too many. Counting takes some hundredths of a second, and lets others run in between.
"""

import msgspec

from corral.dialects.openai.embeddings_fields import INPUTS
from corral.dialects.spans import outside_strings
from corral.errors import InvalidRequest, inputs_too_long
from corral.request import EMBED_TOKENS


def check(given: msgspec.Raw) -> None:
    """Refuse a list of more than INPUTS texts and lists, or of more than EMBED_TOKENS numbers in all.

    Every value but the first of its list stands behind a comma, so the commas outside of strings say how many
    there are. Raises InvalidRequest, or ContextExceeded.
    """
    data = bytes(given)
    if not data.startswith(b"["):
        return
    texts, lists, commas = 0, -1, 0
    for begin, end in outside_strings(data):
        lists += data.count(b"[", begin, end)
        commas += data.count(b",", begin, end)
        texts += end < len(data)
        if texts + lists > INPUTS:
            raise InvalidRequest(f"'input' has more than {INPUTS} inputs.", param="input")
        if (tokens := 1 + commas - texts) > EMBED_TOKENS:
            raise inputs_too_long(tokens, EMBED_TOKENS)
