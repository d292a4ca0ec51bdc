"""The other partners as the doctor looks at them."""

from __future__ import annotations

import folders
import pytest

from tacit.errors import BadInput
from tacit.link.roster import SignedRoster
from tacit.secagg.keys import Signature
from tacit_client import peers
from tacit_client.calls import Greeted
from tacit_client.checkup import cohort
from tacit_client.keys import Keys
from tacit_client.site import Folder


@pytest.fixture
def folder(tmp_path) -> Folder:
    """Of hospital `a`, which has accepted `b` and `c`; data of 90 examples."""
    data = folders.write_npz(tmp_path / "data.npz", n=90, seed=1)
    return folders.make_folders(tmp_path, dict.fromkeys("abc", data))["a"]


def _named(folder: Folder) -> tuple[Keys, SignedRoster]:
    keys = Keys(folder.keys)
    found = cohort.stored(folder, keys).value
    assert found is not None
    return keys, found


def test_others_who_are_accepted(folder):
    keys, kept = _named(folder)
    said = cohort.accepted(folder, kept, kept)
    assert (said.verdict, said.found) == ("ok", "3 accepted, this partner among them, of 3 that site.toml asks for")
    assert cohort.listed(folder, keys, Greeted(0.0, kept, b"")).verdict == "ok"
    assert cohort.accepted(folder, None, None).verdict == "ok"  # no list at all


def test_too_few_accepted(folder):
    _, kept = _named(folder)
    peers.remove(folder.peers, "b")
    said = cohort.accepted(folder, kept, kept)
    assert (said.verdict, said.found[:10]) == ("FAIL", "2 accepted")
    assert said.remedy.endswith(f"tacit-client peers {folder.path} accept b")
    assert not said.remedy.startswith("fetch")
    assert cohort.accepted(folder, None, kept).remedy.startswith("fetch the list: tacit-client peers")
    loose = folders.again(folder, "require_secure_aggregation = true", "require_secure_aggregation = false")
    assert cohort.accepted(loose, kept, kept).verdict == "warn"


def test_an_accepted_one_that_left_does_not_count(folder):
    _, kept = _named(folder)
    left = folders.signed({name: key for name, key in kept.peers.items() if name != "b"}, version=2)
    said = cohort.accepted(folder, kept, left)
    assert (said.verdict, said.remedy) == ("FAIL", "wait until the operator has invited more partners")


def test_a_changed_key_is_an_alarm(folder):
    keys, kept = _named(folder)
    other = folders.identity_of(folders.Secret(bytes(32)))
    changed = folders.signed({**kept.peers, "b": other}, version=2)
    said = cohort.accepted(folder, kept, changed)
    assert (said.verdict, said.found[:50]) == ("FAIL", "ALARM: the server names another key than the accepted one"[:50])
    own = folders.signed({**kept.peers, "a": other}, version=2)
    with pytest.raises(BadInput, match="ALARM: expected this partner's own key"):
        cohort.listed(folder, keys, Greeted(0.0, own, b""))


def test_trusting_is_told(folder):
    keys, kept = _named(folder)
    peers.remove(folder.peers, "b")
    folder = folders.again(folder, "trust_new_peers = false", "trust_new_peers = true")
    assert cohort.accepted(folder, kept, kept).verdict == "warn"
    alone = folders.signed({"a": keys.public}, version=2)
    assert cohort.accepted(folder, kept, alone).verdict == "FAIL"


def test_a_list_that_is_older_or_not_signed(folder):
    keys, kept = _named(folder)
    folders.name_peers(folder, kept.peers, version=5)
    with pytest.raises(BadInput, match="of version 5 or later, found version 1"):
        cohort.listed(folder, keys, Greeted(0.0, kept, b""))
    forged = SignedRoster(9, kept.peers, Signature(bytes(64)))
    with pytest.raises(BadInput, match="found a wrong signature"):
        cohort.listed(folder, keys, Greeted(0.0, forged, b""))
    assert cohort.stored(folder, keys).found.startswith("version 5")
    folder.roster.write_text(folder.roster.read_text().replace("version = 5", "version = 6"))
    with pytest.raises(BadInput, match="found a wrong signature"):
        cohort.stored(folder, keys)
