from tests.tools.load.answers import answer

from tools.load.chart import svg
from tools.load.report import build
from tools.load.scenarios import Record, Tally


def test_a_chart_of_nothing_and_of_something() -> None:
    assert svg(build(Tally(0.0), "chat", 1.0)).startswith("<svg")
    tally = Tally(0.0)
    tally.records.append(Record("chat", answer(sent_s=0.5, content_s=[0.7, 0.8], tokens=2)))
    drawing = svg(build(tally, "chat", 1.0))
    assert drawing.count('r="2.5"') == 2
    assert "http" not in drawing.replace("http://www.w3.org/2000/svg", "")
