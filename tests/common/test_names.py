"""Names, hosts and addresses: what is taken, and that nothing else is."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link.names import check_address, check_host, check_name, join_address

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
HOST = st.one_of(
    st.lists(LABEL, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(str).filter(lambda text: text != "0.0.0.0"),
    st.ip_addresses(v=6).map(str).filter(lambda text: text != "::"),
)


@pytest.mark.parametrize("name", ["a", "0", "hospital-a", "a-", "a" * 63])
def test_names_that_are(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "A", "ä", "a_b", "a b", "a.b", "a/b", "..", "a\n", "a\x00", "a:b", "a" * 64, "١"]
)
def test_names_that_are_none(name):
    with pytest.raises(BadInput, match="expected a partner's name"):
        check_name(name)


@given(st.text(max_size=70))
@example("a\n")
def test_a_name_is_taken_exactly_where_every_character_is_allowed(name):
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    good = 1 <= len(name) <= 63 and set(name) <= allowed and not name.startswith("-")
    try:
        assert check_name(name) == name
    except BadInput:
        assert not good
    else:
        assert good


@given(HOST, st.integers(1, 65_535))
def test_an_address_comes_apart_as_it_was_put_together(host, port):
    assert check_host(host) == host
    address = join_address(host, port=port)
    assert check_address(address) == (host, port)
    assert address.startswith("[") == (":" in host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "0.0.0.0",
        "::",
        "localhost:1",
        "http://a.b",
        "a..b",
        "a.",
        ".a",
        "-a",
        "a-",
        "A.b",
        "ä.de",
        "a_b",
        "a b",
        "*.a",
        "256.1.1.1",
        "1.2.3",
        "1",
        "[::1]",
        "fe80::1%eth0",
        "::0001",
        "a\n",
        "a" * 64,
        ".".join(["a" * 60] * 5),
    ],
)
def test_hosts_that_nobody_reaches(host):
    with pytest.raises(BadInput, match="expected a host"):
        check_host(host)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:01",
        "a:+1",
        "a: 1",
        "a:1 ",
        "a:1\n",
        "a:٣",
        "::1:9",
        "[a]:9",
        "[1.2.3.4]:9",
        "[::1]",
        "[::1:9",
        "a:b:9",
        "0.0.0.0:9",
        "A:9",
    ],
)
def test_addresses_that_are_none(address):
    with pytest.raises(BadInput, match="expected"):
        check_address(address)


def test_errors_show_little_of_what_they_found():
    with pytest.raises(BadInput) as raised:
        check_name("x\x1b[2J" * 1000)
    assert len(raised.value.message) < 500
    assert not re.search(r"[\x00-\x1f]", raised.value.message)
