"""What is signed: canonical bytes that mean one thing, and a signature over all of them and for nothing else."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stated import RUN, SERVER, key, partner, server

from tacit import attestation, commission
from tacit.attestation import canonical, check_signature, load, pretty, read
from tacit.codec import Writer
from tacit.errors import BadInput
from tacit.secagg.keys import Signature, digest, identity_of, sign, verifies
from tacit.statement import PartnerStatement, cost, privacy_of

SPEC = Path(attestation.__file__).parent / "spec" / "statement.md"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(value=st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_read_has_the_bytes_that_were_written(value):
    data = canonical(value)
    assert data.isascii()
    assert canonical(load(data, where="it")) == canonical(load(pretty(value), where="it")) == data


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":2}', '{"a":NaN}', '{"a":1e999}', '{"a":-Infinity}', "[1]", "{", "", "[" * 9999, b"\xff"]
)
def test_what_two_readers_could_read_in_two_ways_is_no_statement(text):
    with pytest.raises(BadInput, match="expected a statement in x, found"):
        load(text if isinstance(text, bytes) else text.encode(), where="x")


def test_the_signature_is_ed25519_over_the_domain_and_the_hash_of_the_rest(make_job):
    value = partner(make_job(), "a")
    signature = Signature(bytes.fromhex(value.pop("signature")))
    message = b"tacit-statement\x01" + digest(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    )
    assert verifies(signature, identity=identity_of(key("a")), message=message)
    assert all(
        words in SPEC.read_text(encoding="utf-8") for words in ("`tacit-statement`", "version, 1", "ensure_ascii")
    )


def _leaves(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in items:
        yield from _leaves(each, (*path, name)) or ()
    if not isinstance(value, dict | list):
        yield path


def _changed(value):
    match value:
        case bool() | None:
            return not value
        case str():
            return value + "0"
        case _:
            return value + 1


def test_a_statement_that_differs_in_any_value_is_not_the_one_that_was_signed(make_job):
    for value, signer in ((partner(make_job(), "a"), key("a")), (server(make_job(), partner(make_job(), "a")), SERVER)):
        identity = identity_of(signer)
        check_signature(value, identity=identity)
        places = [path for path in _leaves(value) if path != ("signature",)]
        assert len(places) > 50
        for *way, last in places:
            edited = copy.deepcopy(value)
            at = edited
            for name in way:
                at = at[name]
            at[last] = _changed(at[last])
            with pytest.raises(BadInput, match="expected the signature"):
                check_signature(edited, identity=identity)
        for name in value.keys() - {"signature"}:
            fewer = {other: each for other, each in value.items() if other != name}
            with pytest.raises(BadInput, match="expected the signature"):
                check_signature(fewer, identity=identity)
        with pytest.raises(BadInput, match="expected the signature"):
            check_signature({**value, "more": 1}, identity=identity)


def test_no_other_signature_of_these_keys_passes_for_one(make_job):
    job, value = make_job(), partner(make_job(), "a")
    body = {name: each for name, each in value.items() if name != "signature"}
    others = [
        commission.sign(key("a"), run=RUN, job=job),
        sign(key("a"), canonical(body)),
        sign(key("a"), digest(canonical(body))),
        sign(key("a"), Writer().fixed(b"tacit-roster", size=12).number(1, size=1).done() + digest(canonical(body))),
        b"",
        bytes(64),
        bytes.fromhex(value["signature"]) + b"\0",
    ]
    for other in others:
        with pytest.raises(BadInput, match="expected the signature"):
            check_signature({**value, "signature": other.hex()}, identity=identity_of(key("a")))
    for other in (None, 1, value["signature"].upper(), "zz"):
        with pytest.raises(BadInput, match="expected the signature"):
            check_signature({**value, "signature": other}, identity=identity_of(key("a")))


def test_unknown_keys_kinds_and_schemas_are_no_statement(make_job):
    value = partner(make_job(), "a")
    assert isinstance(read(value, where="it"), PartnerStatement)
    for changed in ({"more": 1}, {"kind": "other"}, {"schema": 2}, {"made": "yesterday"}, {"releases": [1]}):
        with pytest.raises(BadInput):
            read({**value, **changed}, where="it")


def test_no_value_of_the_data_is_in_a_partners_statement(make_job):
    value = partner(make_job(), "a")
    assert not any("fingerprint" in text or "dataset" in text for text in value)
    assert value["releases"][0].keys() == {"round", "attempt", "at", "state", "event"}


def test_the_run_costs_what_the_dearest_party_spent(make_job):
    job = make_job()
    cheap, dear = (
        [release.event for release in read(partner(job, "a", rounds=rounds), where="it").releases] for rounds in (1, 2)
    )
    both = privacy_of(job, [cheap, dear], secure_noise=True)
    assert both.epsilon == cost(dear, delta=1e-4) > cost(cheap, delta=1e-4)
    assert privacy_of(job, [], secure_noise=True).epsilon == 0.0
    free = privacy_of(make_job("privacy={mechanism='none'}"), [dear], secure_noise=True)
    assert (free.epsilon, free.unit, free.adjacency, free.holds_against) == (None, None, None, ())
    person = dear[0].model_copy(update={"unit": "patient_id"})
    assert privacy_of(job, [[person]], secure_noise=True).unit == "patient_id"
    assert privacy_of(job, [[person], dear], secure_noise=True).unit == "mixed"
    assert privacy_of(job, [[person, *dear]], secure_noise=True).epsilon is None
    assert math.isfinite(both.epsilon)
