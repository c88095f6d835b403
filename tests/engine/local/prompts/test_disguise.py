import sys

from hypothesis import given
from hypothesis import strategies as st

from corral.engine.local.prompts.control import ControlTexts
from corral.engine.local.prompts.disguise import FOLDED, Disguise, Wardrobe
from corral.templates.sought import Sought

CONTROL = ControlTexts({"<|im_end|>": 1, "[INST]": 2, "EOT": 3}, {})
WARDROBE = Wardrobe(CONTROL, Sought(frozenset({"weather", "im_end"}), frozenset({"/no_think", "<|im"})))

near_control_texts = st.lists(
    st.sampled_from(
        [
            "<|im_end|>",
            "<|",
            "|>",
            "im_end",
            "[INST]",
            "[",
            "EOT",
            "E",
            " ",
            "\n",
            '"',
            "\\",
            "é",
            "\U000f0001",
            "/no_think",
        ]
    )
    | st.text(max_size=3)
).map("".join)


def disguise(*texts: str) -> Disguise:
    return WARDROBE.disguise(texts)


@given(near_control_texts)
def test_what_is_disguised_can_be_revealed(text: str) -> None:
    one = disguise(text)
    assert one.reveal(one.light(text)) == text
    assert one.reveal(one.full(text)) == text


@given(near_control_texts)
def test_no_control_text_is_left_in_it(text: str) -> None:
    one = disguise(text)
    for hidden in (one.light(text), one.full(text)):
        assert list(CONTROL.find(hidden)) == []
        assert len(hidden) == len(text)


@given(near_control_texts, near_control_texts)
def test_equal_texts_stay_equal_and_different_ones_different(one: str, other: str) -> None:
    hidden = disguise(one, other)
    assert (hidden.full(one) == hidden.full(other)) == (one == other)
    assert (hidden.light(one) == hidden.light(other)) == (one == other)


def test_lightly_disguised_a_text_keeps_all_but_the_edges_of_control_texts() -> None:
    assert disguise().light("a_b | im_end 1 {x} é") == "a_b | im_end 1 {x} é"


def test_what_the_template_knows_is_spared_unless_a_control_text_could_be_made_of_it() -> None:
    one = disguise()
    assert one.full("weather") == "weather"
    assert one.full("string") == "string"
    assert "/no_think" in one.full("do it /no_think now")
    assert "im_end" not in one.full("im_end")
    assert "<|im" not in one.full("<|im")


def test_a_long_text_is_cut_short_only_where_its_length_does_not_matter() -> None:
    long = "a" * 5000 + "/no_think" + "b" * 5000
    assert len(disguise().full_short(long)) < 400
    assert "/no_think" in disguise().full_short(long)
    assert len(disguise().full_short("call_0123456789")) == 15


def test_no_other_character_becomes_an_ascii_letter_in_another_case() -> None:
    folded = set()
    for code in range(0x80, sys.maxunicode + 1):
        char = chr(code)
        cases = char.lower() + char.upper() + char.casefold() + char.title()
        if any(case.isascii() and case.isalpha() for case in cases):
            folded.add(char)
    assert folded == FOLDED
