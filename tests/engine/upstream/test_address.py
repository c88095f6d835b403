"""Addresses of upstreams, as people write them."""

import pytest

from corral.engine.upstream.address import Address, address_of, key_of


@pytest.mark.parametrize(
    ("url", "address", "name"),
    [
        ("http://gpu-1:8000", Address("gpu-1", 8000, False), "gpu-1:8000"),
        ("http://gpu-1:8000/v1", Address("gpu-1", 8000, False), "gpu-1:8000"),
        ("http://gpu-1:8000/v1/", Address("gpu-1", 8000, False), "gpu-1:8000"),
        (
            "https://api.example/models/v1",
            Address("api.example", 443, True, "/models"),
            "api.example:443/models",
        ),
        ("http://[::1]:80", Address("::1", 80, False), "[::1]:80"),
    ],
)
def test_a_url_is_an_address_with_or_without_v1(url: str, address: Address, name: str) -> None:
    assert address_of(url) == address
    assert address_of(url).name == name


def test_the_host_header_leaves_out_the_port_that_is_usual() -> None:
    assert address_of("http://[::1]:80").authority == "[::1]"
    assert address_of("https://a:443").authority == "a"
    assert address_of("https://a:80").authority == "a:80"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("gpu-1:8000", "give http://"),
        ("ftp://gpu-1", "give http://"),
        ("http://key@gpu-1", "a key goes beside the URL"),
        ("http://gpu-1/v1?key=a", "ends with its path"),
        ("http://", "no host"),
        ("http://gpu-1:99999", "[Pp]ort"),
        ("http://gpü", "visible ASCII"),
        ("http://gpu-1/a\r\nb: c", "visible ASCII|give|path"),
    ],
)
def test_what_is_no_address_is_refused_with_a_reason(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        print(address_of(url))


@pytest.mark.parametrize(
    "url", ["http://gpu..internal:1", f"http://{'a' * 64}.internal:1", "http://a b:1", "http://:1"]
)
def test_what_is_no_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        address_of(url)


def test_a_key_is_taken_without_the_blanks_around_it() -> None:
    assert key_of("sk-1\n") == "sk-1"


@pytest.mark.parametrize("key", ["sk-\u00e9", "sk-1\nx: y"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError) as caught:
        key_of(key)
    assert "sk-" not in str(caught.value)
