from tools.clients.prompts import PromptSource, chatml, messages, tag


def test_no_prompt_is_asked_twice_and_they_differ_early() -> None:
    source = PromptSource()
    prompts = [chatml(prompt) for prompt in source.take(50) + source.take(50, words=20)]
    assert len({prompt[: len("<|im_start|>system\n") + 8] for prompt in prompts}) == 100


def test_filler_lengthens_a_prompt() -> None:
    words = len(messages(3, words=500)[1]["content"].split()) - len(messages(3)[1]["content"].split())
    assert words == 500


def test_neighbours_among_prompts_share_next_to_nothing() -> None:
    tags = [tag(number) for number in range(1_000_000, 1_000_400)]
    assert len(set(tags)) == 400
    assert all(len({tag[:2] for tag in tags[at : at + 16]}) == 16 for at in range(0, 384, 16))


def test_the_same_system_prompt_or_others_of_its_length() -> None:
    source = PromptSource()
    shared, apart = source.shared(8, words=50), source.apart(8, words=50)
    assert len({conversation[0]["content"] for conversation in shared}) == 1
    assert len({conversation[0]["content"] for conversation in apart}) == 8
    assert len({len(conversation[0]["content"]) for conversation in shared + apart}) == 1
    assert len({conversation[1]["content"] for conversation in shared + apart}) == 16


def test_words_that_were_looked_up_repeat_nothing_that_drafts_could_copy() -> None:
    [one, another] = PromptSource().looked_up(2, words=300)
    words = one[1]["content"].split()
    assert len({tuple(words[at : at + 4]) for at in range(300)}) > 295
    assert words[:4] != another[1]["content"].split()[:4]


def test_conversations_share_their_system_prompt_and_nothing_else() -> None:
    talks = PromptSource().talks(3, turns=5, words=80, shared_words=300)
    assert len({system["content"] for system, *_ in talks}) == 1
    said = [turn["content"] for _, *turns in talks for turn in turns]
    assert len(set(said)) == len(said) == 15
    assert all(len(text.split()) == 82 for text in said)
