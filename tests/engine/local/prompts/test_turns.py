from corral.engine.local.prompts.turns import Turns


def drained(turns: Turns[str]) -> list[str]:
    taken = []
    while (item := turns.take()) is not None:
        taken.append(item)
    return taken


def test_clients_take_turns_however_much_one_of_them_wants() -> None:
    turns: Turns[str] = Turns()
    for number in range(3):
        turns.add("a", f"a{number}")
    turns.add("b", "b0")
    turns.add("c", "c0")
    assert drained(turns) == ["a0", "b0", "c0", "a1", "a2"]


def test_who_has_had_a_turn_is_behind_those_who_have_not() -> None:
    turns: Turns[str] = Turns()
    turns.add("a", "a0")
    turns.add("a", "a1")
    assert turns.take() == "a0"
    turns.add("b", "b0")
    assert drained(turns) == ["a1", "b0"]


def test_what_is_withdrawn_is_not_taken() -> None:
    turns: Turns[str] = Turns()
    turns.add("a", "a0")
    turns.add("a", "a1")
    turns.remove("a", "a0")
    turns.remove("a", "a0")
    turns.remove("b", "b0")
    assert len(turns) == 1
    assert drained(turns) == ["a1"]


def test_only_what_suits_is_taken_and_the_others_keep_their_place() -> None:
    turns: Turns[str] = Turns()
    turns.add("a", "large")
    turns.add("b", "small")
    assert turns.take(lambda item: item == "small") == "small"
    assert turns.take(lambda item: item == "small") is None
    assert drained(turns) == ["large"]
