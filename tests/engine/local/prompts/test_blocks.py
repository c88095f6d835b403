import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.local.prompts.blocks import BLOCK_CHARS, DIGITS, blocks

texts = st.lists(st.sampled_from(["a" * 30, " ", "\n", "1" * 700, "中" * 20, "é", "x y", ". "])).map("".join)


@given(texts, st.integers(10, 100))
def test_the_blocks_are_the_text(text: str, size: int) -> None:
    parts = list(blocks(text, size))
    assert "".join(parts) == text
    assert all(len(part) <= size for part in parts)


def test_a_short_text_is_one_block() -> None:
    assert list(blocks("Hello, world")) == ["Hello, world"]


@pytest.mark.parametrize(
    ("text", "beginning"),
    [("word " * 2000, " word"), ("line\n" * 2000, "\nline"), ("中文\uff0c" * 2000, "\uff0c")],
)
def test_a_block_ends_where_a_word_does(text: str, beginning: str) -> None:
    assert all(part.startswith(beginning) for part in list(blocks(text))[1:])


def test_no_block_has_too_many_digits() -> None:
    assert max(map(len, blocks("1" * 10_000))) == DIGITS
    assert list(blocks("1" * DIGITS)) == ["1" * DIGITS]


def test_a_prefix_is_cut_like_the_whole() -> None:
    """What has been computed for one turn of a conversation is found again in the next."""
    text = "The river ran past the old mill. " * 2000
    whole, prefix = list(blocks(text)), list(blocks(text[:50_000]))
    assert prefix[:-1] == whole[: len(prefix) - 1]
    assert len(prefix[-1]) <= BLOCK_CHARS
