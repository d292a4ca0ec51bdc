"""site.toml: every nonsense value is an error that names its key; the folder and its keys are checked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from folders import change, make_folder
from hypothesis import given
from hypothesis import strategies as st

from tacit.check import parse
from tacit.errors import BadInput
from tacit.passphrase import Passphrase
from tacit.seal import make_key
from tacit_client import site
from tacit_client.config import DataSection, PolicySection, SiteConfig
from tacit_client.site import Folder

WHOLE: dict[str, Any] = {
    "name": "hospital-a",
    "device": "cuda:1",
    "threads": 4,
    "max_physical_batch": 64,
    "server": {"address": "fl.example.org:9443"},
    "data": {
        "format": "csv",
        "path": "scans.csv",
        "input": "image",
        "label": "diagnosis",
        "labels": ["benign", "malignant"],
        "image_size": 28,
        "unit": "patient_id",
        "max_per_unit": 2,
        "drop": ["name", "address"],
        "pseudonymise": ["patient_id"],
        "key": "/media/stick/scans.key",
    },
    "policy": {
        "epsilon_limit": 8.0,
        "delta": 1e-5,
        "min_cohort": 3,
        "require_secure_aggregation": True,
        "allow_unprotected": False,
        "trust_server_noise": False,
        "colluders": 2,
        "trust_new_peers": False,
        "allowed_tasks": ["image-classification"],
        "vocabularies": ["/srv/words.txt"],
        "max_holdout": 0.3,
        "max_exact_evaluations": 500,
        "max_rounds_per_day": 1000,
    },
}

NONSENSE: list[tuple[str, Any]] = [
    ("name", "Hospital A"),
    ("name", ""),
    ("name", "a" * 64),
    ("name", "../up"),
    ("device", "gpu"),
    ("device", "cuda:"),
    ("device", "cuda:99999999999999999999"),
    ("device", 0),
    ("threads", 0),
    ("threads", 1.5),
    ("threads", 99999999999),
    ("ledger", "a\0b"),
    ("max_physical_batch", 0),
    ("server.address", "fl.example.org"),
    ("server.address", "fl.example.org:0"),
    ("server.address", "fl.example.org:65536"),
    ("server.address", "https://fl.example.org:9443"),
    ("server.address", ""),
    ("data.format", "xlsx"),
    ("data.path", ""),
    ("data.path", 3),
    ("data.path", "a\0b"),
    ("data.key", "a\0b"),
    ("data.passphrase_file", "a\0b"),
    ("data.input", ""),
    ("data.label", ""),
    ("data.image_size", 0),
    ("data.image_size", 100000),
    ("data.unit", ""),
    ("data.unit", "image"),
    ("data.unit", "diagnosis"),
    ("data.max_per_unit", 0),
    ("data.drop", "name"),
    ("data.drop", [""]),
    ("data.drop", ["image"]),
    ("data.drop", ["patient_id"]),
    ("data.drop", ["diagnosis"]),
    ("data.pseudonymise", [3]),
    ("data.pseudonymise", ["image"]),
    ("data.pseudonymise", ["diagnosis"]),
    ("data.key", ""),
    ("data.passphrase_file", 3),
    ("data.passphrase_file", "beside/the/key"),
    ("policy.epsilon_limit", 0.0),
    ("policy.epsilon_limit", -1.0),
    ("policy.epsilon_limit", "8"),
    ("policy.delta", 0.0),
    ("policy.delta", 1.0),
    ("policy.min_cohort", 0),
    ("policy.min_cohort", 2),
    ("policy.min_cohort", 3.0),
    ("policy.require_secure_aggregation", "yes"),
    ("policy.require_secure_aggregation", 1),
    ("policy.allow_unprotected", "no"),
    ("policy.trust_server_noise", 1),
    ("policy.colluders", -1),
    ("policy.colluders", 1.0),
    ("policy.trust_new_peers", 0),
    ("policy.allowed_tasks", []),
    ("policy.allowed_tasks", [""]),
    ("policy.allowed_tasks", "image-classification"),
    ("policy.vocabularies", "/srv/words.txt"),
    ("policy.vocabularies", [""]),
    ("policy.max_holdout", 1.0),
    ("policy.max_holdout", -0.1),
    ("policy.max_exact_evaluations", -1),
    ("policy.max_exact_evaluations", 0.5),
    ("data.labels", ["axe", ""]),
    ("data.labels", "axe"),
    ("policy.max_rounds_per_day", 0),
    ("policy.epsilon", 3.0),
    ("rules", {}),
    ("data.columns", ["a"]),
]


def _with(key: str, value: Any) -> dict[str, Any]:
    raw = {k: dict(v) if isinstance(v, dict) else v for k, v in WHOLE.items()}
    *sections, last = key.split(".")
    table = raw
    for section in sections:
        table = table[section]
    table[last] = value
    return raw


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(tomli_w.dumps(WHOLE))
    found = site.load(tmp_path / "site.toml").model_dump(mode="json", exclude_none=True)
    assert found == WHOLE


@pytest.mark.parametrize(("key", "value"), NONSENSE)
def test_nonsense_is_an_error_that_names_the_key(key: str, value: Any) -> None:
    with pytest.raises(BadInput, match=r"^expected .*, found ") as caught:
        parse(SiteConfig, _with(key, value), where="site.toml")
    assert key in caught.value.message
    assert "in site.toml" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("key", ["name", "server"])
def test_what_has_no_default_must_be_there(key: str) -> None:
    with pytest.raises(BadInput, match=f"expected {key} in site.toml, found nothing"):
        parse(SiteConfig, {k: v for k, v in WHOLE.items() if k != key}, where="site.toml")


@pytest.mark.parametrize("column", ["age", "pulse", "age, pulse"])
def test_each_of_several_inputs_is_kept_apart(column: str) -> None:
    raw = {**WHOLE, "data": {"format": "csv", "input": column, "unit": "pulse", "drop": ["age"]}}
    with pytest.raises(
        BadInput, match=r"expected each column in .* or in data.(unit|drop), found '(age|pulse)' in both"
    ):
        parse(SiteConfig, raw, where="site.toml")


def test_a_bound_for_persons_needs_persons() -> None:
    raw = {**WHOLE, "data": {"format": "csv", "max_per_unit": 1}}
    with pytest.raises(BadInput, match=r"expected data.unit beside data.max_per_unit, found none"):
        parse(SiteConfig, raw, where="site.toml")
    assert parse(SiteConfig, {**WHOLE, "data": {"unit": "id"}}, where="site.toml").data.max_per_unit == 1


def test_two_partners_hide_each_other_only_without_secure_aggregation() -> None:
    raw = _with("policy.min_cohort", 2)
    raw["policy"]["require_secure_aggregation"] = False
    assert parse(SiteConfig, raw, where="site.toml").policy.min_cohort == 2


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    data=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40),
    trust=st.booleans(),
)
def test_what_is_written_is_read_with_the_defaults(tmp_path_factory, name, data, trust) -> None:
    folder = tmp_path_factory.mktemp("site")
    path = None if data is None else folder / data
    site.write(folder, name=name, address="[::1]:9443", data=path, trust_new_peers=trust)
    found = site.load(folder / "site.toml")
    assert (found.name, found.server.address, found.device) == (name, "[::1]:9443", "auto")
    assert found.policy == PolicySection(trust_new_peers=trust)
    assert found.data.path == (None if path is None else str(path.resolve()))


def test_every_key_of_the_policy_has_a_line_that_says_what_it_does(tmp_path: Path) -> None:
    site.write(tmp_path, name="a", address="b:1", data=None, trust_new_peers=False)
    lines = (tmp_path / "site.toml").read_text().splitlines()
    keys = [line.partition(" =")[0] for line in lines[lines.index("[policy]") :] if " = " in line and line[0] != "#"]
    assert sorted([*keys, "metrics_epsilon"]) == sorted(PolicySection.model_fields)
    for key in (*keys, "# metrics_epsilon"):
        (place,) = (i for i, line in enumerate(lines) if line.startswith(f"{key} ="))
        assert lines[place - 1].startswith("# ")
    assert max(map(len, lines)) <= 120
    assert tomllib.loads("\n".join(lines))["policy"]["allowed_tasks"]
    assert tomllib.loads("\n".join(line.removeprefix("# ") for line in lines if "_epsilon =" in line))


def test_every_key_of_the_data_has_a_line_that_can_be_taken(tmp_path: Path) -> None:
    site.write(tmp_path, name="a", address="b:1", data=None, trust_new_peers=False)
    lines = (tmp_path / "site.toml").read_text().splitlines()
    section = lines[lines.index("[data]") + 1 : lines.index("[policy]")]
    keys = [line.removeprefix("# ") for line in section if " = " in line]
    assert sorted(key.partition(" =")[0] for key in keys) == sorted(DataSection.model_fields)
    either = [line for line in keys if not line.startswith(("passphrase_file", "key"))]
    for one in ("passphrase_file", "key"):
        taken = tomllib.loads("\n".join([*either, *(line for line in keys if line.startswith(one))]))
        parse(SiteConfig, {**WHOLE, "data": taken}, where="site.toml")


def test_what_opens_sealed_data(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", name="a", data=tmp_path / "x.csv")
    assert folder.data_lock is None
    usual = make_key(folder.keys / "seal.key")
    assert folder.data_lock == usual
    change(folder.path, '# key = "keys/seal.key"', 'key = "other.key"')
    with pytest.raises(BadInput, match=r"expected a key at .*other\.key"):
        _ = Folder.open(folder.path).data_lock
    other = make_key(folder.path / "other.key")
    assert Folder.open(folder.path).data_lock == other != usual
    change(folder.path, 'key = "other.key"', 'passphrase_file = "pass"')
    (folder.path / "pass").write_text("correct horse battery\n")
    (folder.path / "pass").chmod(0o600)
    assert isinstance(Folder.open(folder.path).data_lock, Passphrase)
    (folder.path / "pass").chmod(0o644)
    with pytest.raises(BadInput, match="found mode 0644"):
        _ = Folder.open(folder.path).data_lock


def test_writing_again_keeps_what_was_edited(tmp_path: Path) -> None:
    site.write(tmp_path, name="a", address="b:1", data=None, trust_new_peers=False)
    change(tmp_path, "epsilon_limit = 8.0", "epsilon_limit = 2.5")
    site.write(tmp_path, name="a", address="b:1", data=None, trust_new_peers=True)
    assert site.load(tmp_path / "site.toml").policy.epsilon_limit == 2.5
    with pytest.raises(BadInput, match=r"expected the site.toml of c .*, found that of a"):
        site.write(tmp_path, name="c", address="b:1", data=None, trust_new_peers=False)


def test_a_name_or_an_address_that_is_none_is_not_written(tmp_path: Path) -> None:
    for name, address in (("A b", "b:1"), ("a", "b")):
        with pytest.raises(BadInput):
            site.write(tmp_path, name=name, address=address, data=None, trust_new_peers=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_says_how_to_get_one(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadInput, match=r"expected a partner's folder") as caught:
            Folder.open(path)
        assert "tacit-client join" in caught.value.hint


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", name="a", data=None)
    change(tmp_path / "a", "epsilon_limit = 8.0", "epsilon_limit = ")
    with pytest.raises(BadInput, match="line") as caught:
        Folder.open(tmp_path / "a")
    assert caught.value.hint == "mend that line"


@pytest.mark.parametrize(("path", "mode"), [("keys", 0o750), ("keys", 0o701), ("keys/identity.key", 0o640)])
def test_keys_that_others_can_read_are_not_used(tmp_path: Path, path: str, mode: int) -> None:
    folder = make_folder(tmp_path / "a", name="a", data=None)
    (folder.path / path).chmod(mode)
    with pytest.raises(BadInput, match=f"mode 0{mode:o}") as caught:
        Folder.open(folder.path)
    assert "chmod" in caught.value.hint


def test_a_folder_without_keys(tmp_path: Path) -> None:
    site.write(tmp_path, name="a", address="b:1", data=None, trust_new_peers=False)
    with pytest.raises(BadInput, match="expected this partner's keys"):
        Folder.open(tmp_path)


def test_relative_data_begin_at_the_folder(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", name="a", data=None)
    with pytest.raises(BadInput, match=r"expected data\.path"):
        _ = folder.data
    change(folder.path, '# path = "/data/scans.csv"', 'path = "scans/x.csv"')
    assert Folder.open(folder.path).data == folder.path / "scans" / "x.csv"


def test_a_folder_that_is_closed_to_this_user(tmp_path: Path, monkeypatch) -> None:
    """The usual mistake: the service has its own user, and somebody looks with another."""
    folder = make_folder(tmp_path / "a", name="a", data=None)

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(BadInput, match=r"that this user may use at .*a, found: Permission denied") as caught:
        Folder.open(folder.path)
    assert caught.value.hint == "run as the user who joined"


@pytest.mark.parametrize("key", ["path", "key", "passphrase_file", "ledger"])
def test_a_home_that_nobody_has(tmp_path: Path, key: str) -> None:
    where = "~nobody-of-that-name/file"
    config = SiteConfig(
        name="a",
        server={"address": "fl.example.org:9443"},
        ledger=where if key == "ledger" else None,
        data={} if key == "ledger" else {key: where},
    )
    folder = Folder(tmp_path, config)
    looks = {"path": lambda: folder.data, "ledger": lambda: folder.ledger}
    with pytest.raises(BadInput, match="found ~nobody-of-that-name/file, of a user whose home") as caught:
        looks.get(key, lambda: folder.data_lock)()
    assert "whole path" in caught.value.hint


def test_a_disk_without_room_is_one_line(tmp_path: Path, monkeypatch) -> None:
    def full(*args: object, **rest: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tacit.link.keyfile.os.fsync", full)
    with pytest.raises(BadInput, match=r"expected to write .*site\.toml, found No space left on device"):
        site.write(tmp_path, name="a", address="localhost:1", data=None, trust_new_peers=False)
    assert list(tmp_path.iterdir()) == []
