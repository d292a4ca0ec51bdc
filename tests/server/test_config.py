"""server.toml: what is taken, and that every mistake names its key."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit_server.config import ServerConfig

GOOD = 'host = "fl.example.org"\n'


def _load(tmp_path, text):
    path = tmp_path / "server.toml"
    path.write_text(text, encoding="utf-8")
    return ServerConfig.load(path)


def test_a_host_is_enough(tmp_path):
    found = _load(tmp_path, GOOD)
    assert found == ServerConfig(host="fl.example.org")
    assert found.address == "fl.example.org:9443"
    assert found.model_dump() == {
        "host": "fl.example.org",
        "port": 9443,
        "listen": "0.0.0.0",
        "invitation_hours": 24.0,
        "partner_days": 90.0,
        "gateway_days": 90.0,
        "max_partners": 500,
        "grace": 10.0,
    }


@given(
    st.sampled_from(["fl.example.org", "192.0.2.7", "2001:db8::1"]),
    st.integers(1, 65_535),
    st.sampled_from(["0.0.0.0", "::", "127.0.0.1"]),
    st.floats(0.001, 8_760.0),
)
def test_what_is_written_is_read(tmp_path_factory, host, port, listen, hours):
    path = tmp_path_factory.mktemp("config") / "server.toml"
    made = ServerConfig(host=host, port=port, listen=listen, invitation_hours=hours)
    made.write(path)
    assert ServerConfig.load(path) == made


def test_the_written_file_names_and_explains_every_key(tmp_path):
    ServerConfig(host="fl.example.org").write(tmp_path / "server.toml")
    text = (tmp_path / "server.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(text)) == set(ServerConfig.model_fields)
    assert text.count("#") >= 6


BAD = {
    "host": ('""', '"0.0.0.0"', '"https://a.b"', '"a.b:9443"', "5"),
    "port": ("0", "65536", '"9443"', "9443.5", "true"),
    "listen": ('"localhost"', '""', '"0.0.0.0:9443"', "0"),
    "invitation_hours": ("0.0", "-1", "nan", "inf", "10000", '"24"'),
    "partner_days": ("0.0", "-1.0", "inf", "1e9"),
    "gateway_days": ("0.0", "-1.0", "inf", "1e9"),
    "max_partners": ("0", "-1", "2.5", "true"),
    "grace": ("-0.1", "nan", "4000"),
    "prot": ("9443",),
}


@pytest.mark.parametrize("key", BAD)
def test_a_mistake_names_its_key(tmp_path, key):
    rest = "" if key == "host" else GOOD
    for value in BAD[key]:
        with pytest.raises(BadInput) as raised:
            _load(tmp_path, f"{rest}{key} = {value}\n")
        assert key in raised.value.message
        assert "server.toml" in raised.value.message


@pytest.mark.parametrize("text", ["", "host", 'host = "a', "\x00", 'host = "a"\nhost = "b"', "[host]\n"])
def test_other_files(tmp_path, text):
    with pytest.raises(BadInput, match=r"server\.toml"):
        _load(tmp_path, text)


def test_no_file(tmp_path):
    with pytest.raises(BadInput, match="expected to read"):
        ServerConfig.load(tmp_path / "none")
    with pytest.raises(BadInput, match="expected to write"):
        ServerConfig(host="a.b").write(tmp_path / "none" / "server.toml")
