from tools.clients.sse import Answer, Usage
from tools.measures.drafting import equal_tokens


def test_equal_tokens_end_where_texts_differ() -> None:
    def answer(text: str) -> Answer:
        return Answer(pieces=[text], usage=Usage(completion_tokens=5))

    assert equal_tokens(answer("abcdefghij"), answer("abcdefghij")) == 5
    assert equal_tokens(answer("abcdXfghij"), answer("abcdefghij")) == 2
