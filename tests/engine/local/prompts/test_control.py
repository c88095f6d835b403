from corral.engine.local.prompts.control import ControlTexts


def found(
    text: str, texts: dict[str, int], user_texts: dict[str, int] | None = None
) -> list[tuple[int, int]]:
    return [(one.start, one.token) for one in ControlTexts(texts, user_texts or {}).find(text)]


def test_control_texts_are_found_from_left_to_right() -> None:
    assert found("a<s>b</s><s>", {"<s>": 1, "</s>": 2}) == [(1, 1), (5, 2), (9, 1)]


def test_the_longest_is_taken() -> None:
    assert found("<|a|><|a|>>", {"<|a|>": 1, "<|a|>>": 2, "<|": 3}) == [(0, 1), (5, 2)]


def test_what_is_nearly_one_is_none() -> None:
    assert found("<|a|<|a|>", {"<|a|>": 1}) == [(4, 1)]


def test_tokens_without_a_text_or_of_blanks_alone_are_nowhere() -> None:
    assert found("a \n b", {"": 1, " ": 2, "\n": 3}) == []


def test_what_users_define_counts_if_it_is_written_like_a_marker() -> None:
    texts = {
        text: token
        for token, text in enumerate(["<think>", "[TOOL]", "<|x|>", "<table>", "</td>", "  ", "word", ">>"])
    }
    assert found("<think>[TOOL]<|x|><table></td>  word>>", {}, texts) == [(0, 0), (7, 1), (13, 2)]
