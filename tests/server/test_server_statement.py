"""The server's statement: partners' own are passed on only where they hold; its numbers follow from the events."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from real import _key
from scripted import EVENT, Script, hello, update

from tacit.attestation import LONGEST, load, sign
from tacit.job import Job
from tacit.parcel import Parcel
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.secagg.keys import Secret, identity_of
from tacit.statement import CodeStated, PartnerStatement, Release, privacy_of, run_of
from tacit.verification import Known, verify
from tacit.wire import Ask, Hello, Refusal, Statement
from tacit_server import cli, statement
from tacit_server.checkpoint import RunState
from tacit_server.replies import listen
from tacit_server.result import result
from tacit_server.statement import Close, attest
from tacit_server.transport import Failure

SERVER = Secret(b"s" * 32)
NOW = datetime(2026, 11, 22, 14, 30, tzinfo=UTC)
MODEL = "e" * 64


def _hello(name: str) -> Hello:
    return Hello(name, identity_of(_key(name)))


def _said(name: str, ask: Ask, /, *, events=(EVENT,), key: Secret | None = None, **changes: Any) -> Statement:
    """What an honest partner says of itself."""
    made = PartnerStatement(
        made="2026-11-22T14:30Z",
        name=name,
        identity=identity_of(_key(name)).hex(),
        server=identity_of(SERVER).hex(),
        code=CodeStated(version="0.1.0", sha256="c" * 64),
        run=run_of(ask.job, run=ask.run),
        privacy=privacy_of(ask.job, [events], secure_noise=True),
        releases=tuple(
            Release(round=i + 1, attempt=1, at="2026-11-22T14:30Z", state="released", event=event)
            for i, event in enumerate(events)
        ),
    ).model_copy(update=changes)
    return Statement(name, tuple(events), sign(made, key=key or _key(name)))


@pytest.fixture
def close(run, make_job) -> Callable[..., tuple[Job, RunState, Close]]:
    """Runs scripted rounds; gives the job, the state, and what was said at the end."""

    def go(*overrides: str, script: Script) -> tuple[Job, RunState, Close]:
        heard = Close()
        state, _ = run(script, *overrides, hear=heard.hear)
        return make_job(*overrides), state, heard

    return go


def _attest(job: Job, state: RunState, close: Close, **rest: Any) -> dict[str, Any]:
    summary = result(job, state, engine="federation", seed=None, parameters=4, secure_noise=True, data={}, wall_s=1.0)
    made = attest(
        job, state, result=summary, close=close, identities=rest.get("identities", {}), model=MODEL, key=SERVER, now=NOW
    )
    return load(made, where="it")


def _script(**changes: Any) -> Script:
    return Script(**{"hello": _hello, "statement": _said, **changes})


def _parties(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {party["name"]: party for party in value["parties"]}


def _failed(value: dict[str, Any]) -> list[str]:
    known = Known(identity_of(SERVER), {f"p{i}": identity_of(_key(f"p{i}")) for i in range(3)}, "the roster")
    return [found.about for found in verify(value, where="it", known=known) if found.holds is False]


def test_every_partners_statement_stands_in_it_and_it_holds(close):
    job, state, heard = close(script=_script())
    value = _attest(job, state, heard)
    assert _failed(value) == []
    assert {name: party["state"] for name, party in _parties(value).items()} == dict.fromkeys(
        ("p0", "p1", "p2"), "stated"
    )
    assert value["privacy"]["epsilon"] == epsilon((EVENT,), delta=1e-4)
    assert value["rounds"] == {"planned": 2, "done": 2, "abandoned": 0, "attempts": 1}
    assert value["model"] == {"file": "model.safetensors", "sha256": MODEL}
    assert value["metrics"]["federated"]["accuracy"] == 0.5
    assert "confusion" not in value["metrics"]["federated"]
    assert value["made"] == "2026-11-22T14:30Z"


def test_who_is_silent_is_named_with_the_reason(close):
    def says(name: str, ask: Ask) -> Any:
        return {"p0": _said, "p1": lambda name, ask: Refusal(name, "no\nroom"), "p2": lambda name, ask: 1 / 0}[name](
            name, ask
        )

    job, state, heard = close(script=_script(statement=says))
    value = _attest(job, state, heard, identities={"p3": identity_of(_key("p3"))})
    assert _failed(value) == []
    parties = _parties(value)
    assert {name: party["reason"] for name, party in parties.items()} == {
        "p0": None,
        "p1": "no room",
        "p2": "ZeroDivisionError: division by zero",
    }
    assert parties["p1"]["statement"] is None
    assert parties["p1"]["epsilon"] == epsilon((EVENT,), delta=1e-4)  # of what its answers told


def test_who_has_left_is_in_it_with_the_key_of_the_roster(close):
    job, state, heard = close(script=_script())
    for told in (heard.said, heard.keys):
        del told["p1"]
    key = identity_of(_key("p1"))
    party = _parties(_attest(job, state, heard, identities={"p1": key}))["p1"]
    assert (party["identity"], party["reason"]) == (key.hex(), "was not connected at the end of the run")
    assert _parties(_attest(job, state, heard))["p1"]["identity"] is None


LESS = EVENT.model_copy(update={"steps": 1})


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda n, a: _said(n, a, key=_key("x")), "expected the signature"),
        (lambda n, a: _said(n, a, name="p0"), "the name in its statement"),
        (lambda n, a: _said(n, a, identity=identity_of(_key("p0")).hex()), "the key in its statement"),
        (lambda n, a: _said(n, a, server="ab" * 32), "the server in its statement"),
        (lambda n, a: _said(n, a, run=run_of(a.job, run="other")), "the run in its statement"),
        (lambda n, a: _said(n, a, events=(LESS,)), "the steps of round 1"),
        (lambda n, a: _said(n, a, privacy=privacy_of(a.job, [], secure_noise=True)), "the epsilon of its events"),
        (lambda n, a: Statement(n, (EVENT, EVENT), _said(n, a).signed), "expected the events that were told"),
        (lambda n, a: Statement(n, (EVENT,)), "expected a signed statement of p1, found none"),
        (lambda n, a: Statement(n, (EVENT,), b"x" * (LONGEST + 1)), "expected a statement of at most"),
        (lambda n, a: Statement(n, (EVENT,), b"not JSON"), "expected a statement in"),
    ],
)
def test_what_does_not_hold_is_not_passed_on(close, lie, words):
    job, state, heard = close(script=_script(statement=lambda n, a: (lie if n == "p1" else _said)(n, a)))
    value = _attest(job, state, heard)
    party = _parties(value)["p1"]
    assert (party["state"], party["statement"]) == ("silent", None)
    assert party["reason"].startswith("what it sent was not accepted: expected")
    assert words in party["reason"]
    assert _failed(value) == []


def test_dropouts_and_refusals_by_round(close):
    def train(name: str, ask: Ask) -> Any:
        if (name, ask.round) == ("p1", 1):
            raise RuntimeError("gone")
        return Refusal(name, "spent\x1b[2J" * 200) if (name, ask.round) == ("p2", 2) else update(name)

    job, state, heard = close("aggregation.threshold=2", script=_script(train=train))
    parties = _parties(_attest(job, state, heard))
    assert (parties["p0"]["dropouts"], parties["p1"]["dropouts"]) == ([], [1])
    (refusal,) = parties["p2"]["refusals"]
    assert refusal["round"] == 2
    assert "\x1b" not in refusal["reason"]
    assert len(refusal["reason"]) == 500


def test_listening(make_job):
    ask = Ask(make_job(), "r", 2, 1, 3, None)  # type: ignore[arg-type]  # nobody looks at the model here
    too_much = EVENT.model_copy(update={"steps": 5})
    said = listen(
        [
            ("a", Statement("a", (EVENT,), b"x").pack()),
            ("b", Failure("went offline")),
            ("c", Refusal("c", "no").pack()),
            ("d", Statement("d", (too_much,)).pack()),
            ("e", Statement("a", (EVENT,)).pack()),
            ("f", Parcel({}, {"kind": "statement"})),
        ],
        ask=ask,
    )
    assert said["a"] == Statement("a", (EVENT,), b"x")
    assert (said["b"], said["c"]) == ("went offline", "no")
    assert [said[name].partition(",")[0] for name in "def"] == [
        "expected at most 4 steps in the events",
        "expected a statement of e",
        said["f"].partition(",")[0],
    ]
    assert said["f"].startswith("expected fields")


def test_the_command(close, tmp_path, capsys):
    job, state, heard = close(script=_script())
    value = _attest(job, state, heard)
    statement.write(tmp_path, json.dumps(value).encode())
    path = tmp_path / "statement.json"
    assert cli.main(["verify-statement", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.count("holds  ") == 8
    assert out.count("not compared") == 4
    assert b"What was done" in (tmp_path / "statement.html").read_bytes()
    value["privacy"]["epsilon"] = 0.1
    path.write_text(json.dumps(value), encoding="utf-8")
    assert cli.main(["verify-statement", str(path)]) == 1
    assert "FAILS  signature" in capsys.readouterr().out
    path.write_text("{}", encoding="utf-8")
    assert cli.main(["verify-statement", str(path)]) == 2


def test_hello_is_who_is_heard(close):
    _, _, heard = close(script=_script(hello=hello))
    assert heard.keys == {f"p{i}": hello(f"p{i}").identity for i in range(3)}


JUDGED = Event(kind="metrics", sampling_rate=1.0, noise_multiplier=9.0, steps=1)


def test_it_holds_where_all_who_released_priced_their_evaluations_and_one_refused_everything(close):
    """Guarantee: what the server says of the run follows from what it says of everybody, and exact counts are told."""
    both = (EVENT, JUDGED)

    def no(name: str, ask: Ask) -> Refusal:
        return Refusal(name, "no")

    def train(name: str, ask: Ask) -> Any:
        return no(name, ask) if name == "p2" else replace(update(name), events=(EVENT,))

    def said(name: str, ask: Ask) -> Any:
        return no(name, ask) if name == "p2" else _said(name, ask, events=both)

    job, state, heard = close("aggregation.threshold=2", script=_script(train=train, statement=said))
    assert state.events == {"p0": both, "p1": both}
    value = _attest(job, state, heard)
    assert _failed(value) == []
    assert any("counts over held-out examples" in what for what in value["privacy"]["not_covered"])


def test_nobody_is_sent_the_model_for_a_statement(close):
    seen = []

    def says(name: str, ask: Ask) -> Statement:
        seen.append((name, ask.vector.size))
        return _said(name, ask)

    close(script=_script(statement=says))
    assert sorted(seen) == [("p0", 0), ("p1", 0), ("p2", 0)]
