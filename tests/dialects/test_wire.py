import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from corral.dialects.wire import frame


class Note(msgspec.Struct):
    text: str


@given(st.text(st.characters(codec="utf-8") | st.sampled_from('\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"\\é🦙')))
def test_a_frame_is_one_line_to_any_reader_and_says_what_was_meant(text: str) -> None:
    sent = frame(Note(text)).decode()
    data, *rest = sent.splitlines()
    assert rest == [""]
    assert sent.endswith("\n\n")
    assert json.loads(data.removeprefix("data: ")) == {"text": text}


def test_a_frame_has_a_name_where_its_api_names_frames() -> None:
    assert frame(Note("hi"), event="note") == b'event: note\ndata: {"text":"hi"}\n\n'
