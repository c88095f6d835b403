"""What a template looks for in a conversation, read off its source."""

from dataclasses import dataclass

from jinja2 import nodes

_SEEKING = frozenset(("startswith", "endswith", "find", "count", "split", "rsplit", "partition", "replace"))
_SHORTEST_PART = 3


@dataclass(frozen=True, slots=True)
class Sought:
    """`words` are all texts and names of fields it mentions, `parts` those it looks for inside others."""

    words: frozenset[str]
    parts: frozenset[str]


def sought(template: nodes.Template) -> Sought:
    """What a parsed template looks for."""
    words = {const.value for const in template.find_all(nodes.Const) if isinstance(const.value, str)}
    words |= {field.attr for field in template.find_all(nodes.Getattr)}
    return Sought(frozenset(words), frozenset(_parts(template)))


def _parts(template: nodes.Template) -> set[str]:
    candidates: list[nodes.Node] = [
        compare.expr
        for compare in template.find_all(nodes.Compare)
        if any(operand.op in ("in", "notin") for operand in compare.ops)
    ]
    for call in template.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _SEEKING:
            candidates += call.args
    return {
        node.value
        for node in candidates
        if isinstance(node, nodes.Const) and isinstance(node.value, str) and len(node.value) >= _SHORTEST_PART
    }
