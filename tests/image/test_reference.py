"""References name a host, always; what is none says what is wrong with it."""

from __future__ import annotations

import pytest

from mlopt.errors import Misused
from mlopt.image.reference import Reference, is_loopback, scheme_of

DIGEST = "sha256:" + "0" * 64


def test_parts() -> None:
    parsed = Reference.parse(f"registry.example:5000/team/my-net:1.2.0-ort1.31-cpu-int8@{DIGEST}")
    assert parsed == Reference("registry.example:5000", "team/my-net", "1.2.0-ort1.31-cpu-int8", DIGEST)
    assert parsed.wanted == DIGEST
    assert parsed.repository == "registry.example:5000/team/my-net"
    assert str(parsed.at("stable")) == "registry.example:5000/team/my-net:stable"
    assert str(parsed.at(DIGEST)) == f"registry.example:5000/team/my-net@{DIGEST}"
    assert Reference.parse("localhost/net") == Reference("localhost", "net")
    assert Reference.parse("[::1]:5000/net").host == "[::1]:5000"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("net", "host"),
        ("team/net:1", "host"),
        ("https://registry.example/net", "host"),
        ("registry.example/Team/net", "lower case"),
        ("registry.example/a//b", "lower case"),
        ("registry.example/net:", "no tag"),
        ("registry.example/net:-1", "no tag"),
        ("registry.example/net:" + "a" * 129, "no tag"),
        ("registry.example/net@sha256:12", "no digest"),
        ("user@registry.example/net", "host"),
        ("registry.example/../net", "lower case"),
    ],
)
def test_what_is_none(text: str, why: str) -> None:
    with pytest.raises(Misused, match=why):
        Reference.parse(text)


def test_only_this_machine_is_spoken_to_in_the_clear() -> None:
    assert scheme_of("127.0.0.1:5000") == "http"
    assert scheme_of("127.8.8.8") == "http"
    assert scheme_of("registry.example:80") == "https"
    assert scheme_of("localhost.example") == "https"
    assert scheme_of("10.0.0.1:5000") == "https"
    assert not is_loopback(None)
