"""Which statements hold: true ones, and none in which anything was edited, signed again or put in another's place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from stated import MODEL, SERVER, key, partner, resigned, server

from tacit import verification
from tacit.attestation import canonical, load, pretty
from tacit.errors import BadInput
from tacit.link.words import words as spoken
from tacit.secagg.keys import PublicKey, identity_of
from tacit.verification import Known, lines, verify, verify_file

KNOWN = Known(identity_of(SERVER), {name: identity_of(key(name)) for name in ("a", "b", "gone")}, "the roster")
Value = dict[str, Any]


@pytest.fixture
def own(make_job) -> Value:
    return partner(make_job(), "a", noise=1.2)


@pytest.fixture
def whole(make_job, own) -> Value:
    return server(make_job(), own, partner(make_job(), "b"))


def _failed(value: Value, *, known: Known | None = KNOWN) -> dict[str, str]:
    return {found.about: found.said for found in verify(value, where="it", known=known) if found.holds is False}


def test_true_statements_hold(own, whole):
    assert _failed(own) == _failed(whole) == {}
    assert [found.about for found in verify(own, where="it", known=KNOWN)] == [
        "signature",
        "job",
        "releases",
        "epsilon",
        "key of the server",
        "key of a",
    ]
    said = {found.about: found.said for found in verify(whole, where="it", known=KNOWN)}
    assert said["gone"].startswith("no statement of its own (was not connected")
    assert said["b"].startswith("its own statement holds; epsilon 3.")
    assert said["epsilon"].removeprefix("of the run, the worst partner's: ") in said["b"]
    assert said["partners"] == "3, of whom 2 have stated"


@pytest.mark.parametrize("mechanism", ["privacy={mechanism='none'}", "privacy.noise_multiplier=0.9"])
def test_jobs_with_and_without_a_guarantee(make_job, mechanism):
    job = make_job(mechanism)
    assert _failed(server(job, partner(job, "a"))) == {}


def test_of_a_silent_partner_nothing_is_said_to_hold(whole):
    found = {each.about: each.holds for each in verify(whole, where="it", known=KNOWN)}
    assert (found["a"], found["b"], found["gone"]) == (True, True, None)


def test_what_the_server_says_of_the_run_is_what_the_job_says(whole):
    for edit in ({"secure": not whole["secure"]}, {"rounds": whole["rounds"] | {"planned": 9}}):
        assert _failed(resigned(whole | edit, by=SERVER)).keys() == {"rounds"}


def test_without_other_keys_the_fingerprints_are_shown_and_not_called_right(whole):
    found = [each for each in verify(whole, where="it") if each.about.startswith("key of")]
    assert [each.about for each in found] == ["key of the server", "key of a", "key of b", "key of gone"]
    assert all(each.holds is None and "not compared" in each.said for each in found)
    assert spoken(identity_of(SERVER)) in found[0].said  # people compare by telephone


def _no(value: Value) -> None:
    del value["releases"][0]


def _cheaper(value: Value) -> None:
    value["privacy"]["epsilon"] -= 1e-5


def _quieter(value: Value) -> None:
    value["releases"][0]["event"]["noise_multiplier"] = 0.99


def _longer(value: Value) -> None:
    value["releases"][0]["event"]["steps"] = 3


def _later(value: Value) -> None:
    value["releases"][0]["round"] = 3


def _bolder(value: Value) -> None:
    value["run"]["job"]["training"]["learning_rate"] = 0.6


def _renamed(value: Value) -> None:
    value["run"]["job_name"] = "other"


def _safer(value: Value) -> None:
    value["privacy"]["unit"] = "hospital"


def _bare(value: Value) -> None:
    value["privacy"]["not_covered"] = []


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_no, {"epsilon"}),
        (_cheaper, {"epsilon"}),
        (_quieter, {"releases", "epsilon"}),
        (_longer, {"releases", "epsilon"}),
        (_later, {"releases"}),
        (_bolder, {"job"}),
        (_renamed, {"job"}),
        (_safer, {"epsilon"}),
        (_bare, {"epsilon"}),
    ],
)
def test_an_edited_statement_is_named_also_where_the_party_itself_signs_it_again(make_job, own, edit, named):
    edited = copy.deepcopy(own)
    edit(edited)
    assert _failed(edited).keys() == {"signature", *named}
    again = resigned(edited, by=key("a"))
    assert _failed(again).keys() == named
    assert _failed(resigned(server(make_job(), own) | {}, by=SERVER)) == {}


def test_an_epsilon_that_another_machine_rounds_differently_holds(own):
    own["privacy"]["epsilon"] += 1e-9
    assert _failed(resigned(own, by=key("a"))) == {}


def test_whoever_signs_with_another_key_is_not_the_partner(own):
    assert _failed(resigned(own, by=key("b"))).keys() == {"signature"}
    impostor = {**own, "identity": identity_of(key("b")).hex()}
    failed = _failed(resigned(impostor, by=key("b")))
    assert failed.keys() == {"key of a"}
    assert "as in the roster" in failed["key of a"]
    stranger = resigned({**own, "name": "x"}, by=key("a"))
    assert _failed(stranger).keys() == {"key of x"}


def test_a_key_under_which_anybody_signs_is_refused(own):
    small = {**own, "identity": bytes(32).hex(), "signature": bytes(64).hex()}
    assert "small order" in _failed(small, known=None)["signature"]


def _party(name: str) -> Callable[[Value], Value]:
    return lambda value: next(party for party in value["parties"] if party["name"] == name)


def _lower(value: Value) -> None:
    """The server makes a partner's epsilon smaller, in all the places where it stands."""
    party = _party("b")(value)
    party["statement"]["privacy"]["epsilon"] = party["epsilon"] = value["privacy"]["epsilon"] = 0.5


def _fewer(value: Value) -> None:
    """It leaves out a release, and computes anew."""
    del _party("b")(value)["statement"]["releases"][0]


def _beside(value: Value) -> None:
    _party("b")(value)["events"] = _party("a")(value)["events"]
    _party("b")(value)["epsilon"] = value["privacy"]["epsilon"] = _party("a")(value)["epsilon"]


def _swapped(value: Value) -> None:
    a, b = _party("a")(value), _party("b")(value)
    a["statement"], b["statement"] = b["statement"], a["statement"]


def _another(value: Value) -> None:
    _party("b")(value)["identity"] = _party("a")(value)["identity"]


def _signature(value: Value) -> None:
    _party("b")(value)["statement"]["signature"] = _party("a")(value)["statement"]["signature"]


def _hidden(value: Value) -> None:
    _party("b")(value)["statement"] = None


def _nothing(value: Value) -> None:
    _party("b")(value)["statement"] = {"kind": "partner"}


@pytest.mark.parametrize(
    ("edit", "named", "words"),
    [
        (_lower, {"b", "epsilon"}, "expected the epsilon of its events"),
        (_fewer, {"b"}, "expected the signature"),
        (_beside, {"b"}, "expected the events of its own statement"),
        (_swapped, {"a", "b"}, "expected the name in its statement to be b, found a"),
        (_another, {"b", "partners", "key of b"}, "expected the key in its statement"),
        (_signature, {"b"}, "expected the signature"),
        (_hidden, {"b"}, "expected a statement where a partner is stated"),
        (_nothing, {"b"}, "in the statement of b"),
    ],
)
def test_a_server_that_edits_and_signs_again_is_caught(whole, edit, named, words):
    edited = copy.deepcopy(whole)
    edit(edited)
    assert "signature" in _failed(edited)
    failed = _failed(resigned(edited, by=SERVER))
    assert failed.keys() == named
    assert words in failed["b"]


def test_a_partners_epsilon_made_smaller_within_its_own_statement_only(whole):
    edited = copy.deepcopy(whole)
    _party("b")(edited)["statement"]["privacy"]["epsilon"] = 0.5
    assert "expected the signature" in _failed(resigned(edited, by=SERVER))["b"]


def test_a_statement_of_another_run_job_or_server_is_not_this_partners(make_job, whole):
    job = make_job()
    for other, words in (
        (partner(job, "b", run="f" * 32), "the run in its statement"),
        (partner(make_job("training.local_steps=4", "training.rounds=4"), "b"), "the job in its statement"),
        (resigned({**partner(job, "b"), "server": "ab" * 32}, by=key("b")), "the server in its statement"),
    ):
        edited = copy.deepcopy(whole)
        _party("b")(edited)["statement"] = other
        assert words in _failed(resigned(edited, by=SERVER))["b"]


def test_the_runs_epsilon_is_the_largest(whole):
    whole["privacy"]["epsilon"] = _party("a")(whole)["epsilon"]
    assert _failed(resigned(whole, by=SERVER)).keys() == {"epsilon"}


def test_another_servers_statement_is_told_by_its_key(whole):
    known = Known(PublicKey(identity_of(key("x"))), KNOWN.partners, "keys/server.pub")
    assert _failed(whole, known=known).keys() == {"key of the server"}
    assert _failed(whole, known=Known(KNOWN.server, {}, "peers.toml")).keys() == {"key of a", "key of b", "key of gone"}


def test_files(tmp_path, whole, own, monkeypatch):
    path = tmp_path / "statement.json"
    path.write_bytes(pretty(whole))
    assert "FAILS" not in lines(verify_file(path, known=KNOWN))
    (tmp_path / "model.safetensors").write_bytes(MODEL)
    assert "holds  model: the model beside it is as stated" in lines(verify_file(path, known=KNOWN))
    (tmp_path / "model.safetensors").write_bytes(MODEL[1:])
    assert "FAILS  model: expected the model beside it" in lines(verify_file(path, known=KNOWN))
    path.write_bytes(canonical(own))
    assert "model" not in lines(verify_file(path, known=KNOWN))
    for content in (b"", b"{}", b'{"kind":"partner"}', b"PK"):
        path.write_bytes(content)
        with pytest.raises(BadInput):
            verify_file(path, known=None)
    with pytest.raises(BadInput, match="expected a statement at"):
        verify_file(tmp_path / "none.json", known=None)
    monkeypatch.setattr(verification, "_MOST_FILE", 1)
    with pytest.raises(BadInput, match="too large"):
        verify_file(path, known=None)


def test_what_parties_wrote_moves_no_cursor(make_job, own):
    value = server(make_job(), own)
    value["parties"][0]["name"] = "a\x1b[2J\nholds  signature: of everybody"
    shown = lines(verify(load(canonical(value), where="it"), where="it"))
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == len(verify(value, where="it"))


def test_a_round_of_client_is_one_release_however_many_steps_it_trains(make_job):
    privacy = "privacy={mechanism='client', noise_multiplier=5.0, delta=1e-4, max_update_norm=1.0}"
    job = make_job(privacy, "aggregation.secure=true")
    assert job.training.local_steps > 1
    assert _failed(partner(job, "a")) == {}
