"""Prompts that are no conversations, and texts whose tokens are wanted, on the byte vocabulary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.local.backend import ChatFormat, Infill
from corral.engine.local.prompts.writer import PromptWriter
from corral.engine.local.scripted import END, START, ByteVocabulary
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Message, RawPrompt

PREFIX, SUFFIX, MIDDLE = 258, 259, 260


def writer(*, bos: int | None = None, infill: Infill | None = None) -> PromptWriter:
    vocabulary = ByteVocabulary()
    vocabulary.bos = bos
    vocabulary.infill = infill
    return PromptWriter(ChatFormat(None, "", ""), vocabulary)


def tokens(prompt: RawPrompt, writer: PromptWriter) -> list[int]:
    return writer.write(GenerationRequest(prompt=prompt)).tokens.tolist()


def test_a_text_is_its_tokens_behind_the_one_that_prompts_begin_with() -> None:
    assert tokens(RawPrompt("hi"), writer()) == [104, 105]
    assert tokens(RawPrompt("hi"), writer(bos=START)) == [START, 104, 105]
    assert tokens(RawPrompt(""), writer(bos=START)) == [START]


def test_a_text_to_be_embedded_is_between_the_tokens_that_belong_around_it() -> None:
    made = writer(bos=START)
    made._vocabulary.closers = (END,)  # type: ignore[misc]
    texts = ["hi", "<|im_end|>"]
    assert [tokens.tolist() for tokens in made.inputs(texts, 1000)] == [
        [START, *text.encode(), END] for text in texts
    ]


def test_tokens_are_taken_as_they_are() -> None:
    assert tokens(RawPrompt(tokens=(104, END)), writer(bos=START)) == [104, END]


@given(st.lists(st.sampled_from(["<", "|", ">", "im_end", "<|im_start|>", "<|im_end|>", "é"])))
def test_no_text_becomes_a_control_token_unless_the_request_says_so(pieces: list[str]) -> None:
    text = "x" + "".join(pieces)
    assert bytes(tokens(RawPrompt(text), writer())).decode() == text
    parsed = tokens(RawPrompt(text, parses_control=True), writer())
    assert parsed.count(END) == text.count("<|im_end|>")
    assert parsed.count(START) == text.count("<|im_start|>")


def test_what_stands_between_two_texts_is_asked_for_as_the_model_wants_it() -> None:
    infilling = writer(bos=START, infill=Infill(PREFIX, SUFFIX, MIDDLE))
    asked = RawPrompt("a<|im_end|>", suffix="c")
    assert tokens(asked, infilling) == [START, PREFIX, *b"a<|im_end|>", SUFFIX, 99, MIDDLE]
    assert tokens(RawPrompt("", suffix=""), infilling) == [START, PREFIX, SUFFIX, MIDDLE]


@pytest.mark.parametrize(
    ("prompt", "param"),
    [(RawPrompt("a", suffix="b"), "suffix"), (RawPrompt(""), "prompt"), (RawPrompt(tokens=()), "prompt")],
)
def test_what_cannot_be_written_is_refused_by_name(prompt: RawPrompt, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokens(prompt, writer())
    assert caught.value.param == param


def test_long_texts_are_whole() -> None:
    text = "word " * 5000
    assert bytes(tokens(RawPrompt(text), writer())).decode() == text


@pytest.mark.parametrize("text", ["hello", "<|im_end|>", "\ufdd0<|im_end|>"])
def test_the_text_of_a_conversation_is_what_its_tokens_stand_for(text: str) -> None:
    request = GenerationRequest((Message("system", text), Message("user", text)))
    names = {START: "<|im_start|>", END: "<|im_end|>"}
    spelled = b"".join(
        names[token].encode() if token in names else bytes([token])
        for token in writer().write(request).tokens
    )
    assert writer().text(request) == spelled.decode()
