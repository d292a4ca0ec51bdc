"""Planted keys, seeds and shares: nothing that prints, fails or logs shows one."""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from cohort import _LEAK, REQUEST, SMALL_ORDER, Coins, Drive, make_round, roster_with, secret_key, survivors_of

from tacit.secagg import client, server
from tacit.secagg.abort import Abort, Stage
from tacit.secagg.bindings import advert_text
from tacit.secagg.keys import Secret, public_of, sign
from tacit.secagg.messages import Advert, Inbox, MaskedVector, Reveal, decode, encode

N = 5


@pytest.fixture(scope="module")
def run() -> tuple[Drive, server.Sum]:
    drive = Drive(make_round(N), vanish={4: Stage.MASK})
    return drive, drive.sum()


def _secrets(value: Any) -> Iterator[Secret]:
    """Every secret in `value`, however deep."""
    if isinstance(value, Secret):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _secrets(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _secrets(item)


def _planted(drive: Drive) -> list[bytes]:
    found = [*drive.random.given, *(secret_key(i) for i in range(N))]
    for snapshot in drive.at.values():
        found += _secrets(snapshot.states)
    found += [v.tobytes() for vector in drive.vectors.values() for _, v in vector.channels()]
    return list(dict.fromkeys(found))


def _forms(secret: bytes) -> list[str]:
    """A secret as it would look in a text: hex, a number, bytes as Python shows them, an array."""
    words = np.frombuffer(secret[: len(secret) // 4 * 4], dtype=np.uint32)
    forms = [secret.hex(), secret.hex().upper(), str(int.from_bytes(secret, "big")), f"{bytes(secret)!r}"[2:-1]]
    return [*forms, str(int.from_bytes(secret, "little")), secret.decode("latin-1"), ", ".join(map(str, words))]


def _shows(text: str, planted: list[bytes]) -> bool:
    return any(form in text for secret in planted for form in _forms(secret))


def _texts(value: Any) -> list[str]:
    return [repr(value), str(value), f"{value}", f"{value!a}", str([value, {0: value}])]


def test_the_search_finds_what_is_shown(run):
    planted = _planted(run[0])
    assert len(planted) > 60
    for secret in planted:
        for form in _forms(secret)[:4]:
            assert _shows(f"a {form} b", planted)
        assert _LEAK.search(secret.hex())
        assert _LEAK.search(str(int.from_bytes(secret, "big")))
        assert _LEAK.search(repr(bytes(secret)))


def test_what_prints_shows_nothing(run):
    drive, found = run
    planted = _planted(drive)
    values: list[Any] = [
        found,
        *drive.parties.values(),
        *drive.vectors.values(),
        *_secrets(drive.at[Stage.MASK].states),
    ]
    for snapshot in drive.at.values():
        values += [*snapshot.states.values(), snapshot.server]
    shared = drive.at[Stage.MASK].states[0]
    opened = client.open_shares(shared, drive.at[Stage.MASK].message[0])
    agreed = drive.at[Stage.UNMASK].states[0]
    done, data = client.unmask(agreed, drive.at[Stage.UNMASK].message)
    values += [opened, opened.held, shared.session, done, decode(Reveal, data, context=drive.round.context)]
    assert len(values) > 50
    for value in values:
        assert not any(_shows(text, planted) for text in _texts(value)), type(value)
    for value in (shared, opened, agreed, shared.session):
        assert repr(value) == f"{type(value).__name__}(<secret>)"


def test_a_secret_shows_nothing_in_any_format():
    secret = Secret(b"k" * 32)
    assert {repr(secret), str(secret), f"{secret}", f"{secret:>20}", f"{secret!r}", f"{secret!a}"} == {"<secret>"}
    assert str([secret, {0: secret}]) == "[<secret>, {0: <secret>}]"
    assert (len(secret), secret == b"k" * 32, hash(secret)) == (32, True, hash(b"k" * 32))


def _failures(drive: Drive) -> Iterator[Abort]:
    """Aborts in every stage, with the states that hold secrets in their frames."""
    new, at = drive.round, drive.at
    inbox = decode(Inbox, at[Stage.MASK].message[0], context=new.context)
    keys = public_of(secret_key(77)), SMALL_ORDER[0]
    text = advert_text(new, sender=1, share_key=keys[1], mask_key=keys[0])
    low = Advert(1, keys[1], keys[0], sign(secret_key(1), text))
    short = MaskedVector(drive.vectors[0].update[1:], drive.vectors[0].counters)
    opened = client.open_shares(at[Stage.MASK].states[0], at[Stage.MASK].message[0])
    torn = encode(dataclasses.replace(inbox, sealed=((1, bytes(82)), *inbox.sealed[1:])), context=new.context)
    two = survivors_of(drive, (0, 1))
    reveals = {**drive.reveals(), 0: b"x", 1: b"y"}
    again = Coins()  # gives the first partner the seed and the shares that it had
    again.given = drive.random.given[: 2 * N]
    for step in (
        lambda: client.share(at[Stage.SHARE].states[0], b"x", random=Coins()),
        lambda: client.share(
            at[Stage.SHARE].states[0], roster_with(new, at[Stage.SHARE].message, {1: low}), random=again
        ),
        lambda: client.open_shares(at[Stage.MASK].states[0], torn),
        lambda: client.mask(opened, short, request=REQUEST),
        lambda: client.mask(at[Stage.MASK].states[0], drive.vectors[0], request=REQUEST),
        lambda: client.approve(at[Stage.AGREE].states[0], two),
        lambda: client.unmask(at[Stage.UNMASK].states[0], two),
        lambda: server.finish(at[Stage.UNMASK].server, reveals),
    ):
        try:
            step()
        except Abort as error:
            yield error


def test_what_fails_shows_nothing(run, caplog):
    """Neither the words of an error, nor its traceback, even where somebody prints the locals of a partner's frames.

    A server's frames hold the messages as they came.
    """
    caplog.set_level(logging.DEBUG)
    drive = run[0]
    errors = list(_failures(drive))
    planted = [secret for secret in _planted(drive) if len(secret) >= 32]
    assert len(errors) == 8
    assert {error.stage for error in errors} == set(Stage) - {Stage.ADVERTISE}
    for error in errors:
        whole = traceback.TracebackException.from_exception(error, capture_locals=True)
        inside = "".join(line for line in whole.format() if "secagg/" in line and "secagg/server.py" not in line)
        assert not _shows(inside, planted), error
        logging.getLogger("tacit").debug("failed", exc_info=error)
        for text in (str(error), repr(error), f"{error.args}", error.hint):
            assert not _shows(text, planted)
    assert caplog.text.count("secure aggregation, stage") == 8
    assert not _shows(caplog.text, planted)


def test_nothing_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    Drive(make_round(4)).sum()
    assert caplog.records == []
