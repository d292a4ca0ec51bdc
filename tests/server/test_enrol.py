"""Joining and renewing, from the invitation to the certificate, with every reason for a refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from tacit.errors import BadInput
from tacit.link import enrolment
from tacit.link.certificates import Role, make_key, make_request, subject
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit_server.enrol import enrol, invite, renew
from tacit_server.roster import Refused, Roster
from tacit_server.setup import init

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


class Newcomer:
    """What a partner makes before it joins."""

    def __init__(self, identity=None, link=None):
        self.identity = identity or Secret(os.urandom(32))
        self.link = link or make_key()

    def ask(self, place, made, *, now=NOW, **changes):
        """Enrol with the invitation `made`, with parts of what is sent changed."""
        request, mark = make_request(self.link, name=made.name), made.subject.fingerprint
        sent = {
            "invitation": made.subject,
            "name": made.name,
            "request": request,
            "identity": identity_of(self.identity),
            "proof": enrolment.sign(self.identity, name=made.name, request=request, invitation=mark),
            "now": now,
        }
        return enrol(*place, **(sent | changes))


@pytest.fixture
def place(tmp_path):
    """A server's folder and its roster."""
    folder = init(tmp_path / "server", host="fl.example.org")
    return folder, Roster(folder.roster_path)


def _invite(place, name="hospital-a", *, now=NOW, lifetime=HOUR):
    return invite(*place, name=name, lifetime=lifetime, now=now)


def _row(place, name="hospital-a"):
    return next(row for row in place[1].partners() if row.name == name)


def _verify(place, certificate, *, now):
    authority = x509.load_pem_x509_certificate(place[0].authority.read_bytes())
    verifier = PolicyBuilder().store(Store([authority])).time(now).build_client_verifier()
    verifier.verify(x509.load_pem_x509_certificate(certificate), [])


def test_an_invitation_becomes_a_partner(place):
    newcomer = Newcomer()
    certificate = newcomer.ask(place, _invite(place))
    found = subject(certificate)
    assert (found.role, found.name) == (Role.PARTNER, "hospital-a")
    assert found.not_after == NOW + timedelta(days=90)
    _verify(place, certificate, now=NOW)
    place[1].admit(found)
    row = _row(place)
    assert (row.state, row.identity, row.joined) == ("active", identity_of(newcomer.identity), NOW)


def test_the_invitation_says_when_it_ends_and_hears_it_afterwards(place):
    made = _invite(place)
    assert made.expires == NOW + HOUR
    assert made.address == "fl.example.org:9443"
    late = made.expires + timedelta(days=20)
    _verify(place, made.certificate, now=late)  # TLS lets it speak
    with pytest.raises(Refused, match="found one that expired"):
        Newcomer().ask(place, made, now=late)


def test_once(place):
    made, first = _invite(place), Newcomer()
    first.ask(place, made)
    with pytest.raises(Refused, match="used with other keys") as raised:
        Newcomer().ask(place, made)
    assert "somebody else has joined in your name" in raised.value.hint
    assert _row(place).identity == identity_of(first.identity)


def test_a_join_that_was_killed_asks_again_with_the_same_keys(place):
    made, newcomer = _invite(place), Newcomer()
    lost, heard = newcomer.ask(place, made), newcomer.ask(place, made, now=NOW + HOUR / 2)
    assert lost != heard
    place[1].admit(subject(heard))
    for other in (Newcomer(identity=newcomer.identity), Newcomer(link=newcomer.link)):
        with pytest.raises(Refused, match="used with other keys"):
            other.ask(place, made)
    with pytest.raises(Refused, match="expired"):
        newcomer.ask(place, made, now=NOW + HOUR)


def test_a_revoked_and_a_forged_invitation(place, tmp_path):
    made = _invite(place)
    newer = _invite(place)
    with pytest.raises(Refused, match="one that was revoked"):
        Newcomer().ask(place, made)
    Newcomer().ask(place, newer)
    elsewhere = init(tmp_path / "other", host="fl.example.org")
    foreign = _invite((elsewhere, Roster(elsewhere.roster_path)))
    with pytest.raises(Refused, match="an unknown one"):  # TLS does not let it come so far
        Newcomer().ask(place, foreign)
    place[1].remove("hospital-a")
    with pytest.raises(Refused, match="one that was revoked"):
        Newcomer().ask(place, newer)


WRONG = {
    "expected the name hospital-a, as in the invitation, found 'hospital-b'": {"name": "hospital-b"},
    "found 'Hospital A": {"name": "Hospital A\x1b" * 50},
    "role invitation, found one for partner": {"role": Role.PARTNER},
    "role invitation, found one for gateway": {"role": Role.GATEWAY},
    "holds the identity key it names, found a wrong one": {"proof": bytes(64)},
    "holds the identity key": {"identity": PublicKey(bytes(range(32)))},
    "an identity key of 32 bytes for hospital-a, found 5": {"identity": PublicKey(b"short")},
    "found one of small order": {"identity": PublicKey((1).to_bytes(32, "little")), "proof": b"\x01" + bytes(63)},
    "identity key it names": {"proof": b""},
    "found a wrong one": {"request": make_request(make_key(), name="hospital-a")},
    "a wrong one": {"request": b""},
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_does_not_fit_changes_nothing(place, reason):
    made, changes = _invite(place), dict(WRONG[reason])
    if role := changes.pop("role", None):
        changes["invitation"] = replace(made.subject, role=role)
    before = place[1].partners()
    with pytest.raises(Refused, match=reason) as raised:
        Newcomer().ask(place, made, **changes)
    assert len(raised.value.message) < 400
    assert place[1].partners() == before
    Newcomer().ask(place, made)  # the invitation is as good as before


def test_a_request_that_is_none_although_it_is_proven(place):
    made, newcomer = _invite(place), Newcomer()
    proof = enrolment.sign(newcomer.identity, name="hospital-a", request=b"none", invitation=made.subject.fingerprint)
    with pytest.raises(Refused, match="expected a certificate request"):
        newcomer.ask(place, made, request=b"none", proof=proof)


def test_a_proof_for_one_invitation_is_none_for_the_next(place):
    """Who overheard a join can not replay it for an invitation of its own."""
    victim, request = Newcomer(), make_request(make_key(), name="hospital-a")
    first = _invite(place)
    proof = enrolment.sign(victim.identity, name="hospital-a", request=request, invitation=first.subject.fingerprint)
    second = _invite(place)
    with pytest.raises(Refused, match="found a wrong one"):
        victim.ask(place, second, request=request, proof=proof)


def test_the_name_in_a_request_means_nothing(place):
    made, newcomer = _invite(place), Newcomer()
    request = make_request(newcomer.link, name="gateway")
    mark = made.subject.fingerprint
    proof = enrolment.sign(newcomer.identity, name="hospital-a", request=request, invitation=mark)
    assert subject(newcomer.ask(place, made, request=request, proof=proof)).name == "hospital-a"


def test_no_more_partners_than_server_toml_allows(tmp_path):
    folder = init(tmp_path / "server", host="fl.example.org")
    text = folder.config_path.read_text(encoding="utf-8")
    folder.config_path.write_text(text.replace("max_partners = 500", "max_partners = 1"), encoding="utf-8")
    place = type(folder).open(folder.path), Roster(folder.roster_path)
    Newcomer().ask(place, _invite(place))
    with pytest.raises(Refused, match="fewer than 1 partners"):
        Newcomer().ask(place, _invite(place, "hospital-b"))


def test_a_certificate_renews_itself_with_the_same_or_another_key(place):
    newcomer = Newcomer()
    first = subject(newcomer.ask(place, _invite(place)))
    later = NOW + timedelta(days=60)
    for key in (newcomer.link, make_key()):
        request = make_request(key, name="anything")
        certificate = renew(*place, partner=first, request=request, now=later)
        found = subject(certificate)
        assert (found.role, found.name) == (Role.PARTNER, "hospital-a")
        assert found.not_after == later + timedelta(days=90)
        _verify(place, certificate, now=later)
        place[1].admit(found, now=later)
        place[1].admit(first, now=later)  # until the new one is in use


def test_who_may_not_renew(place):
    newcomer, made = Newcomer(), _invite(place)
    mine = subject(newcomer.ask(place, made))
    request = make_request(newcomer.link, name="hospital-a")
    cases = {
        "role partner, found one for invitation": {"partner": made.subject},
        "expected a certificate in date": {"now": NOW + timedelta(days=91)},
        "expected the current certificate": {"partner": replace(mine, fingerprint="0" * 64)},
        "who has not joined": {"partner": replace(mine, name="hospital-b")},
        "expected a certificate request": {"request": b"none"},
    }
    assert len(cases) == 5
    for reason, change in cases.items():
        with pytest.raises(Refused, match=reason):
            renew(*place, **({"partner": mine, "request": request, "now": NOW} | change))
    place[1].remove("hospital-a")
    with pytest.raises(Refused, match="hospital-a was removed"):
        renew(*place, partner=mine, request=request, now=NOW)


def test_a_server_without_its_key_says_so_and_spends_nothing(place):
    made = _invite(place)
    aside = place[0].authority_key.rename(place[0].path / "aside")
    with pytest.raises(BadInput, match=r"expected to read .*authority\.key"):
        Newcomer().ask(place, made)
    aside.rename(place[0].authority_key)
    Newcomer().ask(place, made)


_RACER = """
import sys
from pathlib import Path
from test_enrol import Newcomer, Refused, Roster
from tacit.link.invitation import Invitation
from tacit_server.folder import Folder

folder, made = Folder.open(Path(sys.argv[1])), Invitation.read(Path(sys.argv[2]))
place, newcomer = (folder, Roster(folder.roster_path)), Newcomer()
print("ready", flush=True)
sys.stdin.read()
try:
    newcomer.ask(place, made)
    print("in")
except Refused as error:
    print(error.message)
"""


def test_two_processes_with_one_invitation_at_the_same_moment(place, tmp_path):
    """Real processes and a real file; three times, as one race may be lost by chance."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    for index in range(3):
        path = tmp_path / f"{index}.toml"
        _invite(place, f"hospital-{index}").write(path)
        command = [sys.executable, "-c", _RACER, str(place[0].path), str(path)]
        racers = [
            subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
        for racer in racers:
            racer.stdin.close()
        said = sorted(racer.stdout.read().strip() for racer in racers)
        assert [racer.wait(timeout=60) for racer in racers] == [0, 0]
        assert said[1] == "in"
        assert "was used with other keys" in said[0]
        assert _row(place, f"hospital-{index}").state == "active"
    assert [row.state for row in place[1].partners()] == ["active"] * 3
