"""`corral format`: what was learned, and what becomes of recorded answers."""

import json
from pathlib import Path

import pytest

from corral.__main__ import main

TEMPLATES = Path(__file__).parent / "decoding" / "templates"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def case(raw: str, **more: object) -> str:
    return json.dumps({"id": "one", "template": "own-phi-4-mini.jinja", "raw": raw, "tools": [TOOL], **more})


def test_a_template_is_shown_as_what_was_learned_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["format", "--template", str(TEMPLATES / "own-phi-4-mini.jinja")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["source"] == "learned"
    assert shown["format"]["calls"][0]["begin"] == ["<|tool_call|>"]
    assert shown["self_test"]["passed"]
    assert shown["capabilities"]["parallel_calls"]


@pytest.mark.parametrize(
    ("template", "held"), [("json-in-tags", "always"), ("bare-json-list", "where a call must come")]
)
def test_it_is_shown_whether_strict_tools_are_held_where_no_call_must_come(
    template: str, held: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["format", "--template", str(TEMPLATES / "invented" / f"{template}.jinja")]) == 0
    assert json.loads(capsys.readouterr().out)["strict_tools"] == held


@pytest.mark.parametrize("split", ["1", "3", "1000"])
def test_answers_are_parsed_one_a_line(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases.jsonl"
    whole = '<|tool_call|>{"name": "get_weather", "arguments": {"city": "Ulm"}}<|/tool_call|>'
    cases.write_text(case("Hm. " + whole) + "\n\n" + case(whole[:62], finish="length") + "\n")
    folders = f"{tmp_path}:{TEMPLATES}"
    assert main(["format", "--templates", folders, "--cases", str(cases), "--split", split]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    called = {"name": "get_weather", "arguments": {"city": "Ulm"}, "arguments_partial": None}
    assert first == {
        "id": "one",
        "reasoning": None,
        "content": "Hm.",
        "tool_calls": [called],
        "malformed": False,
    }
    cut = {"name": "get_weather", "arguments": None, "arguments_partial": {"city": "Ul"}}
    assert (second["tool_calls"], second["malformed"]) == ([cut], True)


def test_a_case_that_cannot_be_parsed_is_named_and_the_others_are_parsed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join(["{}", case("Hi.", template="missing.jinja"), case("Hi.")]))
    assert main(["format", "--templates", str(TEMPLATES), "--cases", str(cases)]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["content"] == "Hi."
    assert "line 1" in said.err
    assert "line 2: there is no template missing.jinja" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--template", "a", "--model", "b"],
        ["--cases", "x"],
        ["--cases", "x", "--templates", ".", "--split", "0"],
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["format", *arguments]) == 1
    assert "--cases" in capsys.readouterr().err


def test_a_template_that_does_not_compile_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for %}")
    assert main(["format", "--template", str(broken)]) == 1
    assert capsys.readouterr().err.startswith("corral: the chat template does not compile: line 1")


LOOP = "{%- for a in range(99999) -%}{%- for b in range(99999) -%}{%- for c in range(99999) -%}"
LOOP += "{%- endfor -%}{%- endfor -%}{%- endfor -%}"


def test_a_template_that_loops_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.format_command.DEADLINE_S", 0.2)
    (tmp_path / "loop.jinja").write_text(LOOP)
    assert main(["format", "--template", str(tmp_path / "loop.jinja")]) == 1
    assert capsys.readouterr().err == "corral: the chat template takes longer than 0.2 s\n"


def test_a_case_whose_prompt_loops_is_named_and_the_others_are_parsed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.format_command.DEADLINE_S", 2.0)
    (tmp_path / "loop.jinja").write_text(f"{{%- if x -%}}{LOOP}{{%- endif -%}}{{{{ messages[0].content }}}}")
    lines = [case("a", template="loop.jinja", kwargs={"x": True}), case("b", template="loop.jinja")]
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    assert main(["format", "--templates", str(tmp_path), "--cases", str(tmp_path / "cases.jsonl")]) == 1
    shown = capsys.readouterr()
    assert [json.loads(line)["content"] for line in shown.out.splitlines()] == ["b"]
    assert shown.err == "corral: cases.jsonl, line 1: the chat template takes longer than 2 s\n"


def test_a_template_that_is_no_text_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bytes.jinja"
    path.write_bytes(b"x\xff")
    assert main(["format", "--template", str(path)]) == 1
    assert capsys.readouterr().err == f"corral: {path} is not text in UTF-8: invalid start byte at 1\n"
