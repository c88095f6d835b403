"""What is said to the processes that write prompts: nothing of a request is lost on the way."""

from dataclasses import fields

from msgspec import Raw

from corral.engine.local.prompts.wire import (
    HEADER,
    Inputs,
    Job,
    Render,
    Tokenize,
    Write,
    decode_job,
    encode_job,
)
from corral.request import (
    Dry,
    Embed,
    GenerationRequest,
    Grammar,
    Message,
    Mirostat,
    RawPrompt,
    Sampling,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)

FULL = GenerationRequest(
    messages=(
        Message(
            "assistant",
            "a",
            "n",
            (ToolCall("c", "f", "{}"),),
            tool_call_id="c",
            reasoning="r",
            is_error=True,
            verbatim=("v",),
        ),
    ),
    sampling=Sampling(
        temperature=0.1,
        dry=Dry(0.5, breakers=("x",), window_tokens=None),
        mirostat=Mirostat(2, 4.0),
        logit_bias=((1, 0.5),),
        stop_tokens=(3,),
        penalty_window_tokens=None,
        seed=2**63,
        given=frozenset(("temperature",)),
    ),
    max_tokens=1,
    stop=("s",),
    includes_stop=True,
    shows_control=True,
    top_logprobs=0,
    n=2,
    tools=(Tool("f", "d", Raw(b'{"type":"object"}'), True, Grammar("lark", "start: /a/", "tools")),),
    tool_choice=ToolChoice("required", ("f",)),
    calls_in_parallel=False,
    thinking=Thinking(True, "low", 0),
    grammar=Grammar("json_schema", "{}", "text"),
    template_kwargs='{"a":{"b":[1,null]}}',
    is_clipped=True,
    is_collected=True,
    priority=-1,
    prompt=RawPrompt("t", (1, 2), "s", parses_control=True),
    scores_prompt=True,
    embed=Embed((RawPrompt("t"),), 3),
    session="s",
)


def through(job: Job) -> Job:
    return decode_job(encode_job(job)[HEADER.size :])


def test_every_field_of_a_request_reaches_the_process_that_writes_its_prompt() -> None:
    plain = GenerationRequest()
    assert not [
        field.name for field in fields(plain) if getattr(FULL, field.name) == getattr(plain, field.name)
    ]
    for job in (Write(FULL, 5), Render(FULL)):
        arrived = through(job)
        assert isinstance(arrived, Write | Render)
        for field in fields(FULL):  # one by one: some of them do not count where two are compared
            assert getattr(arrived.request, field.name) == getattr(FULL, field.name)


def test_texts_that_are_no_requests_reach_it_too() -> None:
    for job in (Tokenize("a", True, False), Inputs(("a", "b"), 7)):
        assert through(job) == job
