import pytest
from tests.dialects.plain import PLAIN

from corral.dialects.openai.errors import OpenAIErrors
from corral.dialects.routes import ROUTES, Route, errors_at

ALL = (*ROUTES, PLAIN, Route("/plain/deep", "deep", ROUTES[0].dialect))


@pytest.mark.parametrize("path", ["/plain", "/plain/", "/plain/unknown/deeper"])
def test_what_lies_below_a_route_fails_like_it(path: str) -> None:
    assert errors_at(path, ALL) is PLAIN.dialect


@pytest.mark.parametrize("path", ["", "/", "*", "/plainer", "/other/plain", "plain", "/v1/chat"])
def test_elsewhere_errors_are_openais(path: str) -> None:
    assert isinstance(errors_at(path, ALL), OpenAIErrors)


def test_the_longer_route_wins() -> None:
    assert errors_at("/plain/deep/x", ALL) is ALL[-1].dialect


def test_no_path_has_two_dialects_and_no_two_apis_share_a_name() -> None:
    assert len({route.path for route in ROUTES}) == len({route.api for route in ROUTES}) == len(ROUTES)
