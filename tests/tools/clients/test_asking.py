from tools.clients.asking import DeltaGate
from tools.clients.sse import Answer


def test_the_gate_opens_when_all_have_text_or_one_is_over() -> None:
    gate, first, second = DeltaGate(2, 2), Answer(content_s=[1.0, 2.0]), Answer(content_s=[1.0])
    for answer in (first, first, second):
        gate(answer)
    assert not gate.opened.is_set()
    second.content_s.append(2.0)
    gate(second)
    assert gate.opened.is_set()
    late = DeltaGate(2, 2)
    late.over()
    assert late.opened.is_set()
