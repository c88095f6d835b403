"""`POST /v1/embeddings` over a model without weights: whatever a request goes through, this one does."""

import base64
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from openai.types import CreateEmbeddingResponse
from tests.harness import Client, Exchange, Gate, serving
from tests.http.watch import opening, watching

from corral.engine.local.embedding.turns import shortened
from corral.engine.local.scripted import ScriptedBackend, embeds
from corral.errors import EngineFailed

PATH = "/v1/embeddings"
DIMENSIONS = 8


def backend(**options: Any) -> ScriptedBackend:
    return ScriptedBackend(embeds=embeds(dimensions=DIMENSIONS), **options)


def embed(client: Client, given: Any, path: str = PATH, **fields: Any) -> Exchange:
    return client.send("POST", path, {"model": "scripted", "input": given, **fields})


def expected(made: ScriptedBackend, tokens: list[int], dimensions: int = DIMENSIONS) -> np.ndarray:
    embedder = made.scripted_embedder
    assert embedder is not None
    own = [embedder.token_vector(tokens[: end + 1]) for end in range(len(tokens))]
    return shortened(embedder.pooled(own), dimensions)


async def vectors(client: Client, given: Any, **fields: Any) -> list[np.ndarray]:
    exchange = embed(client, given, **fields)
    answer = await exchange.json()
    assert exchange.status == 200, answer
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    if fields.get("encoding_format") == "base64":
        return [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]]
    CreateEmbeddingResponse.model_validate(answer, strict=True)
    return [np.array(item["embedding"]) for item in answer["data"]]


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("abc", [[97, 98, 99]]),
        (["abc", "é"], [[97, 98, 99], [195, 169]]),
        ([7, 8], [[7, 8]]),
        ([[7, 8], [9]], [[7, 8], [9]]),
        (["a", [9]], [[97], [9]]),
        (["x" * 200] * 30, [[120] * 200] * 30),
    ],
)
async def test_every_input_has_its_own_vector(
    given: Any, tokens: list[list[int]], encoding_format: str
) -> None:
    made = backend()
    async with serving(made) as client:
        found = await vectors(client, given, encoding_format=encoding_format)
    for own, vector in zip(tokens, found, strict=True):
        assert vector == pytest.approx(expected(made, own), abs=1e-6)


async def test_a_large_answer_has_a_vector_for_every_input_too() -> None:
    made = ScriptedBackend(embeds=embeds(dimensions=64))
    async with serving(made) as client:
        found = await vectors(client, [[number] for number in range(256)] * 2)
    for number in (0, 255):
        assert found[256 + number] == pytest.approx(expected(made, [number], 64), abs=1e-6)


async def test_tokens_are_counted_and_the_path_is_there_without_v1() -> None:
    async with serving(backend()) as client:
        answer = await embed(client, ["abc", [7, 8]], path="/embeddings").json()
        assert (answer["object"], answer["model"]) == ("list", "scripted")
        assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


async def test_a_shortened_vector_is_the_beginning_at_length_one() -> None:
    made = backend()
    async with serving(made) as client:
        [vector] = await vectors(client, "abc", dimensions=3)
        assert vector == pytest.approx(expected(made, [97, 98, 99], 3), abs=1e-6)
        refused = embed(client, "abc", dimensions=DIMENSIONS + 1)
        assert (await refused.json())["error"]["param"] == "dimensions"
        assert refused.status == 400


async def test_a_model_that_makes_no_vectors_is_a_plain_refusal_that_names_the_setting() -> None:
    async with serving(ScriptedBackend()) as client:
        refused = embed(client, "abc")
        assert "--pooling" in (await refused.json())["error"]["message"]
        assert refused.status == 400
        assert (await client.send("GET", "/props").json())["embedding"] is None


async def test_a_model_that_only_reads_embeds_and_does_not_chat() -> None:
    async with serving(backend(generates=False)) as client:
        for path, body in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
            ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}),
            ("/v1/responses", {"input": "hi"}),
            ("/v1/completions", {"prompt": "hi"}),
        ):
            refused = client.send("POST", path, {"model": "m", **body})
            assert "/v1/embeddings" in (await refused.json())["error"]["message"]
            assert refused.status == 400
        assert len(await vectors(client, "abc")) == 1
        embedding = (await client.send("GET", "/props").json())["embedding"]
        assert embedding == {
            "dimensions": DIMENSIONS,
            "input_tokens": 256,
            "pooling": "mean",
            "reads_only": True,
        }


async def test_an_input_that_does_not_fit_is_named_with_the_code_that_clients_look_for() -> None:
    async with serving(backend()) as client:
        for given, param in ((["a", "b" * 300], "input[1]"), ([7] * 300, "input")):
            refused = embed(client, given)
            error = (await refused.json())["error"]
            assert (refused.status, error["param"], error["code"]) == (400, param, "context_length_exceeded")


async def test_it_waits_in_line_and_past_that_comes_back_later() -> None:
    gate = Gate()
    async with serving(backend(on_step=gate), slots=1, queue_requests=1) as client, opening(gate):
        first = embed(client, "abc")
        await gate.wait_arrived()
        second = embed(client, "abcd")
        while not client.service.waiting:  # its tokens are counted in a thread
            await trio.lowlevel.checkpoint()
        refused = embed(client, "abc")
        await refused.body()
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) > 0
        gate.open()
        for exchange in (first, second):
            await exchange.body()
            assert exchange.status == 200


async def test_what_the_texts_of_all_requests_hold_is_bounded_as_long_as_they_live() -> None:
    gate = Gate()
    sizes: dict[str, Any] = {"body_limit_bytes": 10_000, "body_memory_bytes": 20_000}
    for texts in (["x" * 200] * 30, ["x" * 60 + "😀"] * 30, [[7] * 200]):
        async with serving(backend(on_step=gate), **sizes) as client, opening(gate):
            first = embed(client, texts)
            await gate.wait_arrived()
            for _ in range(2):
                refused = embed(client, texts)
                assert "texts" in (await refused.json())["error"]["message"]
                assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            small = embed(client, "abc")
            gate.open()
            for exchange in (first, small):
                await exchange.body()
                assert exchange.status == 200
            again = embed(client, texts)
            await again.body()
            assert again.status == 200, "all of it has come back"
        gate = Gate()


@pytest.mark.parametrize("where", ["computed", "in line"])
async def test_a_client_that_leaves_takes_its_texts_out_of_the_engine(where: str) -> None:
    gate = Gate()
    made = backend(on_step=gate)
    async with serving(made, slots=1) as client, opening(gate):
        first = embed(client, ["x" * 200] * 20)
        await gate.wait_arrived()
        second = embed(client, "abc")
        await trio.testing.wait_all_tasks_blocked()
        leaving, staying = (first, second) if where == "computed" else (second, first)
        leaving.leave()
        await leaving.is_over.wait()
        gate.open()
        await staying.body()
        assert staying.status == 200
        await client.service.wait_settled()
        totals = client.service.ledger.totals
        assert totals.by_outcome == {("embeddings", "disconnected"): 1, ("embeddings", "stop"): 1}
        assert made.scripted_embedder is not None
        if where == "computed":
            steps = made.scripted_embedder.steps
            assert not any(120 in chunk.tokens for step in steps for chunk in step), "its step was cut short"
            assert totals.wasted["disconnected"].prefill_dropped > 0
        assert made.scripted_embedder.held_tokens == 0


async def test_streams_go_on_beside_it_and_say_what_they_say_alone() -> None:
    async with serving(ScriptedBackend()) as client:
        quiet = (await client.chat("hello", max_tokens=40).json())["choices"]
    made = backend()
    async with serving(made) as client:
        stream = client.chat("hello", max_tokens=40)
        found = await vectors(client, ["x" * 150] * 10)
        assert (await stream.json())["choices"] == quiet
        for vector in found:
            assert vector == pytest.approx(expected(made, [120] * 150), abs=1e-6)


async def test_what_fails_in_the_engine_is_an_error_of_this_request() -> None:
    def fail(chunks: Any) -> None:
        raise EngineFailed("that cannot be computed")

    async with serving(backend(on_step=fail)) as client:
        failed = embed(client, "abc")
        assert (await failed.json())["error"]["code"] == "engine_failed"
        assert failed.status == 503


async def test_the_deadline_holds_for_it(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    async with serving(backend(on_step=gate), request_deadline_s=5.0) as client, opening(gate):
        late = embed(client, "abc")
        assert (await late.json())["error"]["code"] == "deadline_exceeded"
        assert late.status == 504


async def test_it_is_seen_on_status_while_it_is_computed_and_in_the_metrics_after() -> None:
    gate = Gate()
    async with (
        serving(backend(on_step=gate), status_content=True) as client,
        opening(gate),
        watching(client) as watch,
    ):
        exchange = embed(client, ["abc", [7, 8]], dimensions=2)
        await gate.wait_arrived()
        await watch.until(
            lambda watch: any(each.get("doing") == "embedding" for each in watch.state["requests"])
        )
        [seen] = watch.state["requests"]
        assert (seen["api"], seen["state"], seen["prompt_tokens"]) == ("embeddings", "prefill", 5)
        assert (seen["params"]["inputs"], seen["params"]["dimensions"]) == (2, 2)
        assert seen["messages"] == [{"role": "input", "content": "abc"}, {"role": "input", "content": "7 8"}]
        gate.open()
        await exchange.body()
        await watch.until(lambda watch: watch.state["history"])
        [row] = watch.state["history"]
        assert (row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == ("stop", 5, 0)
        assert row["vectors"] == 2
        metrics = (await client.send("GET", "/metrics").body()).decode()
        assert "corral_vectors_total 2.0" in metrics
        assert 'corral_requests_total{api="embeddings",outcome="stop"} 1.0' in metrics


async def test_a_body_of_many_texts_may_be_larger_than_one_prompt() -> None:
    shape = embeds(dimensions=DIMENSIONS)
    async with serving(ScriptedBackend(ctx_tokens=300, embeds=shape)) as client:
        padding = "y" * 1_200_000
        exchange = embed(client, "abc", user=padding)
        await exchange.body()
        assert exchange.status == 200
        refused = client.chat("abc", user=padding)
        await refused.body()
        assert refused.status == 413
