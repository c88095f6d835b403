"""Formats written by hand, one for each way a call can be told from text."""

from corral.decoding.formats.form import (
    CallForm,
    Format,
    Headers,
    JsonBody,
    NamedBody,
    PairsBody,
    ThoughtForm,
)

THOUGHT = ThoughtForm("<think>\n", "\n</think>\n")
JSON_IN_TAGS = Format(
    "learned",
    (CallForm((JsonBody(),), begin=("<tool_call>\n",), end="\n</tool_call>", joiner="\n"),),
    THOUGHT,
)
BARE_JSON = Format("learned", (CallForm((JsonBody(arguments_key="parameters"),)),), THOUGHT)
JSON_IN_TOKENS = Format(
    "learned",
    (
        CallForm(
            (JsonBody(),),
            section_begin="<|calls|>",
            joiner=", ",
            section_end="<|/calls|>",
            list_open="[",
            list_close="]",
        ),
    ),
    ThoughtForm("<|think|>", "<|/think|>"),
    ends=("<|end|>",),
    controls=frozenset({"<|calls|>", "<|/calls|>", "<|think|>", "<|/think|>", "<|end|>"}),
)
NAMED = Format(
    "learned",
    (
        CallForm(
            (NamedBody((":", "<|args|>")),),
            section_begin="<|section|>",
            begin=("<|call|>functions.",),
            end="<|/call|>",
            section_end="<|/section|>",
        ),
    ),
    controls=frozenset({"<|section|>", "<|call|>", "<|args|>", "<|/call|>", "<|/section|>"}),
)
TAGGED = Format(
    "learned",
    (
        CallForm(
            (
                PairsBody(
                    after_name=(">\n",),
                    before_key=("<parameter=",),
                    after_key=(">\n",),
                    after_value=("\n</parameter>\n",),
                ),
            ),
            begin=("<tool_call>\n<function=",),
            end="</function>\n</tool_call>",
            joiner="\n",
        ),
    ),
    THOUGHT,
)
TYPED_TAGS = Format(
    "learned",
    (
        CallForm(
            (
                PairsBody(
                    after_name=('">\n',),
                    before_key=('<arg name="',),
                    after_key=('" string="', '">'),
                    after_value=("</arg>\n",),
                    string_mark="true",
                    other_mark="false",
                ),
            ),
            section_begin="<calls>\n",
            begin=('<call name="',),
            end="</call>\n",
            section_end="</calls>",
        ),
    ),
)
PYTHONIC = Format(
    "learned",
    (
        CallForm(
            (PairsBody(after_name=("(",), after_key=("=",), separator=", ", values="python"),),
            end=")",
            joiner=", ",
            list_open="[",
            list_close="]",
        ),
    ),
)
QUOTED = Format(
    "learned",
    (
        CallForm(
            (PairsBody(("{",), after_key=(":",), separator=",", values="python", quote='<|"|>'),),
            begin=("<|call>call:",),
            end="}<call|>",
        ),
    ),
    controls=frozenset({"<|call>", "<call|>", '<|"|>'}),
)
NESTED_TAGS = Format(
    "learned",
    (
        CallForm(
            (PairsBody(('">',), ("<",), (">",), ("</", ">"), item="item"),),
            begin=('<invoke name="',),
            end="</invoke>",
        ),
    ),
)
FENCED = Format("learned", (CallForm((JsonBody(),), begin=("```json\n",), end="\n```"),))
HEADED = Format(
    "learned",
    (
        CallForm(
            (NamedBody(("<|channel|>commentary json<|message|>",)),),
            begin=(" to=functions.",),
            end="<|call|>",
        ),
    ),
    headers=Headers(
        start="<|start|>assistant",
        body="<|message|>",
        ends=("<|return|>", "<|end|>", "<|call|>"),
        thought="<|channel|>analysis",
        content="<|channel|>final",
        recipient=" to=functions.",
    ),
    controls=frozenset({"<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|end|>", "<|call|>"}),
)
PROMPTED = Format(
    "learned",
    (CallForm((NamedBody(("\n",)),), begin=(">>>",)),),
    content_opener=">>>all\n",
)
ALL = {
    "json in tags": JSON_IN_TAGS,
    "bare json": BARE_JSON,
    "json in tokens": JSON_IN_TOKENS,
    "named": NAMED,
    "tagged": TAGGED,
    "typed tags": TYPED_TAGS,
    "pythonic": PYTHONIC,
    "quoted": QUOTED,
    "nested tags": NESTED_TAGS,
    "fenced": FENCED,
    "headed": HEADED,
    "prompted": PROMPTED,
}
