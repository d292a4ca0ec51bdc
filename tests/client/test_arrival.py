"""The gateway's welcome: an older or forged list is refused and told, and a ledger that is behind ends the partner."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from folders import make_folders, name_peers, signed

from tacit.errors import BadInput, JobFailed
from tacit.link import link_pb2
from tacit.link.enrolment import fingerprint
from tacit.link.link_pb2 import Welcome
from tacit.link.roster import SignedRoster
from tacit.secagg.keys import Secret, Signature, identity_of
from tacit_client import peers, roster
from tacit_client.arrival import Arrival
from tacit_client.audit import Audit
from tacit_client.keys import Keys
from tacit_client.site import Folder

OTHER = identity_of(Secret(bytes(32)))


@dataclass
class Partner:
    """A partner called a, whose only peer is b."""

    folder: Folder
    recalled: list[bytes] = field(default_factory=list)
    behind: bool = False

    def __post_init__(self) -> None:
        self.keys = Keys(self.folder.keys)
        self.audit = Audit.of(self.folder)
        self.named = roster.named(self.folder.roster, keys=self.keys)
        self.start()

    def start(self) -> None:
        self.arrival = Arrival(self.folder, keys=self.keys, audit=self.audit, recall=self.recall)

    def recall(self, mark: bytes) -> None:
        self.recalled.append(mark)
        if self.behind:
            raise BadInput("expected a newer ledger, found an older one", hint="put the newest ledger.db back")

    def hears(self, found: SignedRoster | link_pb2.SignedRoster, *, mark: bytes = b"") -> None:
        packed = found.pack() if isinstance(found, SignedRoster) else found
        self.arrival.welcome(Welcome(node=1, clock=0.0, roster=packed, mark=mark))

    def events(self) -> list[str]:
        return [entry.event for entry in self.audit.entries()]

    def facts(self, event: str) -> list[dict[str, object]]:
        return [entry.facts for entry in self.audit.entries() if entry.event == event]

    def kept(self) -> SignedRoster | None:
        return roster.read(self.folder.roster, keys=self.keys)


@pytest.fixture
def partner(tmp_path: Path) -> Partner:
    folder = make_folders(tmp_path, dict.fromkeys(("a", "b"), tmp_path / "x.npz"))["a"]
    name_peers(folder, roster.named(folder.roster, keys=Keys(folder.keys)), version=5)
    return Partner(folder)


def test_what_is_well_is_kept_and_noted(partner, caplog):
    later = signed(dict(partner.named) | {"c": OTHER}, version=6)
    partner.hears(later, mark=b"mark")
    partner.arrival.left("the gateway\nclosed the connection")
    assert partner.kept() == later
    assert partner.recalled == [b"mark"]
    assert partner.events() == ["connected", "disconnected"]
    assert partner.facts("connected") == [{"server": "fl.example.org:9443", "roster": 6}]
    assert partner.facts("disconnected") == [{"reason": "the gateway closed the connection"}]
    assert "ALARM" not in caplog.text


def _refused(partner: Partner) -> dict[str, SignedRoster | link_pb2.SignedRoster]:
    named = partner.named
    return {
        "of version 5 or later, found version 4": signed(named, version=4),
        "another of the same version": signed({"a": named["a"]}, version=5),
        "wrong signature": replace(signed(named, version=9), signature=Signature(bytes(64))),
        "of version 1 or more, found 0": link_pb2.SignedRoster(),
        "a signature of 64 bytes, found 1": link_pb2.SignedRoster(version=9, signature=b"x"),
    }


def test_lists_that_are_refused_stay_out_and_are_told_once(partner, caplog):
    before, cases = partner.folder.roster.read_bytes(), _refused(partner)
    assert len(cases) == 5
    for reason, found in cases.items():
        caplog.clear()
        for _ in range(2):  # connections come and go
            partner.hears(found)
        assert caplog.text.count("ALARM") == 1
        assert reason in caplog.text
        assert reason in partner.facts("roster-refused")[-1]["reason"]
        assert partner.folder.roster.read_bytes() == before
    assert partner.events().count("roster-refused") == 5
    assert partner.events().count("connected") == 10


def test_a_changed_key_is_an_alarm_and_what_was_accepted_stays(partner, caplog):
    before = peers.read(partner.folder.peers)
    changed = signed({"a": partner.named["a"], "b": OTHER}, version=6)
    for _ in range(2):
        partner.hears(changed)
    partner.start()  # another process
    partner.hears(changed)
    told = {"peer": "b", "accepted": fingerprint(before["b"]), "named": fingerprint(OTHER)}
    assert partner.facts("peer-changed") == [told, told]
    assert caplog.text.count("ALARM: the server names another key for b") == 2
    assert peers.read(partner.folder.peers) == before
    assert partner.kept() == changed


def test_a_ledger_that_is_behind_ends_the_partner(partner):
    partner.behind = True
    with pytest.raises(JobFailed, match="expected a newer ledger") as caught:
        partner.hears(signed(partner.named, version=6), mark=b"mark")
    assert (caught.value.exit_code, caught.value.hint) == (1, "put the newest ledger.db back")
    assert partner.events() == []


def test_a_full_disk_is_told_in_the_log(partner, caplog, monkeypatch):
    def full(*args):
        raise BadInput("expected to write the audit log, found no space left", hint="make room")

    monkeypatch.setattr(partner.audit, "write", full)
    partner.hears(signed(partner.named, version=6))
    assert "connected was not kept in the audit log" in caplog.text
    assert partner.kept().version == 6


def test_broken_peers_are_told_in_the_log(partner, caplog):
    partner.folder.peers.write_text("a = ")
    partner.hears(signed(partner.named, version=6))
    assert "peers were not compared" in caplog.text


def test_another_key_under_this_partners_own_name_is_an_alarm(partner, caplog):
    """Others would take it for this partner's."""
    own = partner.keys.public
    for _ in range(2):
        partner.hears(signed(dict(partner.named) | {"a": OTHER}, version=6))
    assert partner.facts("peer-changed") == [{"peer": "a", "accepted": fingerprint(own), "named": fingerprint(OTHER)}]
    assert caplog.text.count("ALARM: the server names another key for a than this partner's own") == 1
    partner.hears(signed({"b": partner.named["b"]}, version=7))  # removed: no key, no alarm
    assert len(partner.facts("peer-changed")) == 1
