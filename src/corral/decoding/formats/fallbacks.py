"""Forms of calls where a template does not render any: from its instructions, from tokens, or our own."""

import re
from collections.abc import Collection

from corral.decoding.formats.form import CallForm, Headers, JsonBody, NamedBody, PairsBody

GENERIC = CallForm((JsonBody(),), begin=("<tool_call>\n",), end="\n</tool_call>", joiner="\n")
"""What we ask for ourselves, where a template says nothing about calls."""

_PYTHONIC = PairsBody(after_name=("(",), after_key=("=",), separator=", ", values="python")
_ANY: tuple[JsonBody | NamedBody | PairsBody, ...] = (JsonBody(), NamedBody(), _PYTHONIC)

_MARK = r"(?:<\|[^<>|\s]+\|>|<\uff5c[^<>\uff5c\s]+\uff5c>|<[A-Za-z_][\w:.\-]*>|\[[A-Z][A-Z_]+\])"
_CLOSE = r"(?:<\|[^<>|\s]+\|>|<\uff5c[^<>\uff5c\s]+\uff5c>|</[A-Za-z_][\w:.\-]*>|\[/[A-Z][A-Z_]+\])"
_NAME_KEY = r"[\"']?(name|tool_name|function_name|function|tool)[\"']?\s*:"
_ARGUMENTS_KEY = r"[\"']?(arguments|parameters|args|params|tool_input)[\"']?\s*:"
_OBJECT = re.compile(
    rf"(?P<open>{_MARK}\s*)?(?P<word>\b\w{{4,16}}\s*)?(?P<list>\[\s*)?\{{+\s*{_NAME_KEY}[^{{}}\n]{{0,80}}?"
    rf"{_ARGUMENTS_KEY}.{{0,160}}?\}}+\s*(?:,?\s*(?:\.\.\.|…)?\s*)?(?P<end>\])?\s*(?P<close>{_CLOSE})?",
    re.DOTALL,
)
_MENTION = re.compile(
    rf"({_MARK})[`'\"]?,? (?:token |tag |marker )?followed by (?:a|the) (?:JSON )?(list|array|JSON|object)?"
)
_CALL_LIST = re.compile(r"\[\s*[\w.]+\(\s*[\w.]+\s*=")
_CALL_WORD = re.compile(r"(tool|function)[_▁ -]?calls?|action", re.IGNORECASE)
_RESULT_WORD = re.compile(r"(tool|function)([_▁ -]?)(response|result|output)(s?)", re.IGNORECASE)
_BEGIN_WORDS = ("start", "begin", "prefix", "open")
_END_WORDS = ("end", "suffix", "close")


def by_instructions(text: str) -> tuple[CallForm, ...]:
    """The form that the template's text describes, from its example or the token that it names."""
    for match in _OBJECT.finditer(text):
        marker, word, close = (match[name] or "" for name in ("open", "word", "close"))
        name_key, arguments_key = match[4], match[5]
        is_list = bool(match["list"]) and bool(match["end"])
        begin = marker + (word if word.strip() and not marker and match["list"] else "")
        if not begin and _looks_like_definition(text, match.start()):
            continue
        body = JsonBody(name_key, arguments_key)
        if is_list:
            return (CallForm((body,), begin, joiner=", ", section_end=close, list_open="[", list_close="]"),)
        return (CallForm((body,), "", (begin,), close, "\n"),)
    mention = _MENTION.search(text)
    if mention is not None:
        closing = mention[1].replace("<", "</", 1) if mention[1].startswith("<") else ""
        return (
            CallForm(
                _ANY,
                mention[1],
                section_end=closing if closing in text else "",
                list_open="[",
                list_close="]",
            ),
        )
    if _CALL_LIST.search(text):
        return (CallForm((_PYTHONIC,), end=")", joiner=", ", list_open="[", list_close="]"),)
    return ()


def _looks_like_definition(text: str, at: int) -> bool:
    """An object with a name and parameters that is a tool's definition, not a call."""
    return '"description"' in text[at : at + 400] or '"type"' in text[max(0, at - 40) : at]


def by_vocabulary(tokens: Collection[str]) -> tuple[CallForm, ...]:
    """Tokens that by their names begin and end calls, around whatever kind of call comes.

    A template that writes results between tokens of its own has the same tokens for calls.
    """
    names = set(tokens)
    names |= {
        _RESULT_WORD.sub(lambda match: f"{match[1]}{match[2]}call{match[4]}", token) for token in tokens
    }
    named = sorted(name for name in names if _CALL_WORD.search(name))
    forms: list[CallForm] = []
    for token in named:
        if any(word in token.lower() for word in _END_WORDS) or token.startswith(("</", "<|/", "[/")):
            continue
        forms.append(
            CallForm(_ANY, token, section_end=_counterpart(token, named), list_open="[", list_close="]")
        )
    return tuple(forms)


def _counterpart(token: str, names: Collection[str]) -> str:
    lowered = token.lower()
    for begin in _BEGIN_WORDS:
        if begin in lowered:
            for end in _END_WORDS:
                other = re.sub(begin, end, token, flags=re.IGNORECASE)
                if other in names:
                    return other
    for other in (token.replace("<|", "<|/", 1), token.replace("<", "</", 1), token.replace("[", "[/", 1)):
        if other != token and other in names:
            return other
    return ""


_CHANNELS = Headers(
    start="<|start|>assistant",
    body="<|message|>",
    ends=("<|return|>", "<|end|>", "<|call|>"),
    thought="<|channel|>analysis",
    content="<|channel|>final",
    recipient=" to=functions.",
)
_CHANNEL_TOKENS = frozenset({"<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>"})


def headers_by_tokens(tokens: Collection[str]) -> Headers | None:
    """Headers with channels and recipients, where the tokens that write them are all there."""
    return _CHANNELS if _CHANNEL_TOKENS.issubset(tokens) else None


def by_headers(headers: Headers | None) -> tuple[CallForm, ...]:
    """The calls of headers that name a recipient: they need no other form."""
    if headers is None or headers.recipient is None:
        return ()
    body = NamedBody(after_name=(headers.body,))
    return (CallForm((body,), begin=(headers.recipient,), end=headers.ends[-1]),)
