"""OpenAI's own package against a server on a socket: Embeddings, which it asks for in base64 by itself."""

from functools import partial

import openai
import pytest
from tests.sdk.covers import covering
from tests.sdk.server import KEY, Server

covers = partial(covering, "openai (Python)", "Embeddings")

TEXTS = ["a cab", "bad", "dddd ☂"]
COUNTS = [[2, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 4]]
"""Of the letters a to d, which is all that the vectors of a tale say."""


def test_vectors_are_the_same_in_base64_and_as_numbers(gpt: openai.OpenAI) -> None:
    as_it_comes = gpt.embeddings.create(model="any", input=TEXTS)
    as_numbers = gpt.embeddings.create(model="any", input=TEXTS, encoding_format="float")
    for answer in (as_it_comes, as_numbers):
        assert [item.embedding for item in answer.data] == COUNTS
        assert [item.index for item in answer.data] == [0, 1, 2]
        assert {item.object for item in answer.data} == {"embedding"}
        assert (answer.object, answer.model) == ("list", "tales")
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 5)


def test_one_text_and_fewer_dimensions(gpt: openai.OpenAI) -> None:
    [item] = gpt.embeddings.create(model="any", input=TEXTS[0], dimensions=2).data
    assert item.embedding == COUNTS[0][:2]


def test_token_ids_are_taken_one_list_or_several(gpt: openai.OpenAI) -> None:
    for given, count in (([1, 2, 3], 1), ([[1, 2], [3]], 2)):
        answer = gpt.embeddings.create(model="any", input=given)
        assert len(answer.data) == count


@covers("error")
def test_what_is_wrong_is_raised_with_the_field_that_is(gpt: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.embeddings.create(model="any", input=["a", ""])
    assert caught.value.param == "input[1]"
    with (
        openai.OpenAI(base_url=f"{server.base}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.embeddings.create(model="any", input="a")


def test_the_async_client_reads_the_same(server: Server) -> None:
    import asyncio

    async def ask() -> list[float]:
        async with openai.AsyncOpenAI(base_url=f"{server.base}/v1", api_key=KEY, max_retries=0) as client:
            answer = await client.embeddings.create(model="any", input=TEXTS[0])
        return answer.data[0].embedding

    assert asyncio.run(ask()) == COUNTS[0]


@covers("cancel")
def test_a_client_that_gives_up_is_out_of_the_server(gpt: openai.OpenAI, server: Server) -> None:
    texts = ["a"] * 2000  # a tale of two seconds and more
    with pytest.raises(openai.APITimeoutError):
        gpt.with_options(timeout=0.2).embeddings.create(model="any", input=texts)
    server.wait_settled()
    totals = server.app.service.ledger.totals
    assert totals.by_outcome["embeddings", "disconnected"] >= 1
