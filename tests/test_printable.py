"""Text from outside on a terminal: what could drive it is shown, what is merely foreign is left alone."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.printable import one_line, printable, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{% for m in messages %}\n\t{{ m }}", "{% for m in messages %}\n\t{{ m }}"),
        ("\x1b[2J\x07\x00\x7f\x9b", r"\x1b[2J\x07\x00\x7f\x9b"),
        ("one\rtwo\r\nthree", "one\\rtwo\nthree"),
        ("\u202eevil\u200b\ufeff\u2028", r"\u202eevil\u200b\ufeff\u2028"),
        ("\ud800\U000e0001", r"\ud800\U000e0001"),
        ("<\uff5cUser\uff5c> ▁日本語\u3000é ☃", "<\uff5cUser\uff5c> ▁日本語\u3000é ☃"),
    ],
)
def test_what_is_invisible_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_no_text_leaves_a_control_character_or_a_surrogate(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(character) for character in shown if character not in "\n\t"} & {
        *("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    }
    assert one_line(text).splitlines() in ([], [one_line(text)])


def test_one_line_is_cut_where_nobody_would_read_on() -> None:
    assert one_line("a\nb\tc") == r"a\nb\tc"
    assert len(one_line("a" * 10**6)) == 1_000
    assert one_line("a" * 10**6).endswith("a…")


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("ascii", rb"\xe9\u2026 a"), ("latin-1", b"\xe9\\u2026 a"), ("utf-8", "é… a".encode())],
)
def test_a_stream_of_any_encoding_takes_it(encoding: str, written: bytes) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    say("é… a", stream)
    stream.flush()
    assert raw.getvalue() == written + b"\n"
