import pytest
from tests.dialects.plain import PLAIN, with_plain

from corral.dialects.anthropic.errors import AnthropicErrors
from corral.dialects.openai.chat import ChatDialect
from corral.dialects.openai.errors import OpenAIErrors
from corral.dialects.routes import DialectOptions, Route, errors_at

ALL = (*with_plain(DialectOptions()), Route("/plain/deep", "deep", ChatDialect()))


@pytest.mark.parametrize("path", ["/plain", "/plain/", "/plain/unknown/deeper"])
def test_what_lies_below_a_route_fails_like_it(path: str) -> None:
    assert errors_at(path, ALL) is PLAIN.dialect


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/batches", "/v1/messages/count_tokens/x"])
def test_what_lies_below_messages_fails_as_anthropics_does(path: str) -> None:
    assert isinstance(errors_at(path, ALL), AnthropicErrors)


@pytest.mark.parametrize("path", ["", "/", "*", "/plainer", "/other/plain", "plain", "/v1/chat"])
def test_elsewhere_errors_are_openais(path: str) -> None:
    assert isinstance(errors_at(path, ALL), OpenAIErrors)


@pytest.mark.parametrize("path", ["/v1/models/none", "/", "/v1/files"])
def test_elsewhere_anthropics_clients_are_told_in_their_own_shape(path: str) -> None:
    assert isinstance(errors_at(path, ALL, is_anthropics=True), AnthropicErrors)
    assert errors_at("/plain/x", ALL, is_anthropics=True) is PLAIN.dialect


def test_who_knows_no_table_tells_errors_in_the_same_shape() -> None:
    for route in ALL:
        if not route.path.startswith("/plain"):
            shape = type(errors_at(route.path))
            assert isinstance(route.dialect, shape)
            assert isinstance(errors_at(f"{route.path}/unknown"), shape)


def test_the_longer_route_wins() -> None:
    assert errors_at("/plain/deep/x", ALL) is ALL[-1].dialect


def test_no_path_has_two_dialects_and_no_two_apis_share_a_name() -> None:
    generating = [route for route in ALL if isinstance(route, Route)]
    assert len({route.path for route in generating}) == len({route.api for route in generating})
    assert len({route.path for route in generating}) == len(generating)


def test_two_servers_keep_nothing_in_common() -> None:
    assert all(
        one.dialect is not other.dialect
        for one, other in zip(with_plain(DialectOptions()), with_plain(DialectOptions()), strict=True)
        if one is not PLAIN
    )
