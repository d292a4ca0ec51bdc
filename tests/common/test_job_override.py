"""`--set KEY=VALUE`: what it changes in a job, how a value is read, what is refused."""

from __future__ import annotations

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.job import override

KEYS = st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), min_size=1, max_size=4)
VALUES = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_characters='"\\\x7f'), max_size=20),
    st.lists(st.integers(0, 9), max_size=4),
)


@given(KEYS, VALUES)
def test_an_override_sets_the_nested_key_to_the_value_as_toml(keys, value):
    shown = tomli_w.dumps({"v": value}).partition("=")[2].strip()
    shown = str(value) if isinstance(value, list) else shown
    found = override({}, [f"{'.'.join(keys)}={shown}"])
    for key in keys:
        assert list(found) == [key]
        found = found[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("cosine", "cosine"),
        ("a=b", "a=b"),
        ("", ""),
        (" 5 ", 5),
        ("5", 5),
        ("True", "True"),
        ("true", True),
        ("1e-5", 1e-5),
    ],
)
def test_a_value_that_is_no_toml_is_a_text(shown, value):
    assert override({}, [f"a={shown}"]) == {"a": value}


def test_an_override_leaves_the_rest_and_the_original_alone():
    raw = {"a": {"b": 1, "c": 2}, "d": 3}
    assert override(raw, ["a.b=5", "a.b=6", "e.f=7"]) == {"a": {"b": 6, "c": 2}, "d": 3, "e": {"f": 7}}
    assert raw == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize("text", ["rounds", "=5", ".a=5", "a..b=5", "a.=5", ""])
def test_an_override_without_key_and_value_is_refused(text):
    with pytest.raises(BadInput, match=r"^expected --set KEY=VALUE, found "):
        override({}, [text])


def test_an_override_into_a_value_is_refused():
    with pytest.raises(BadInput, match=r"^expected a section at name in --set name.x=1, found a value$"):
        override({"name": "n"}, ["name.x=1"])


def test_a_value_with_a_line_break_sets_one_key_only():
    assert override({}, ["a=1\nb = 2"]) == {"a": "1\nb = 2"}
