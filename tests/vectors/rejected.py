"""What a server must set aside or stop at, and bytes that are no round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from forgery import FIVE, NOBODY, agreement, presence, respelled, signed
from play import Play, words

from tacit.secagg import client
from tacit.secagg.abort import Reason, Stage
from tacit.secagg.keys import Secret, Signature, digest
from tacit.secagg.messages import Advert, Envelopes, MaskedVector, Reveal, decode, encode
from tacit.secagg.round import Round

__all__ = ["round_cases", "server_cases"]

Runs = Mapping[str, Play]
Case = dict[str, Any]


def server_cases(runs: Runs) -> list[Case]:
    """For the server of the round of five; position 4 answers last, so that the others are enough without it."""
    run = runs[FIVE]
    new, context = run.round, run.round.context
    advert, others = (decode(Advert, run.answered[Stage.ADVERTISE][i], context=context) for i in (4, 3))
    letters = decode(Envelopes, run.answered[Stage.SHARE][4], context=context)
    # What position 1 would have answered, had it not dropped out before.
    reveal = decode(Reveal, client.unmask(run.states[Stage.AGREE][1], run.received[Stage.UNMASK])[1], context=context)
    last = decode(Reveal, run.answered[Stage.UNMASK][0], context=context)
    (owner, piece), *rest = last.shares
    changed = replace(last, shares=((owner, Secret(bytes(piece[:-1]) + bytes([piece[-1] ^ 1]))), *rest))
    key = run.parties[4].key
    small = signed(run, 4, key=key, share=advert.share_key, mask=NOBODY)
    spelled = signed(run, 4, key=key, share=respelled(advert.share_key), mask=advert.mask_key)
    copied = signed(run, 4, key=key, share=advert.share_key, mask=others.mask_key)
    long = MaskedVector(np.zeros(new.update + 1, dtype=np.uint32), np.zeros(new.counters, dtype=np.uint64))

    def case(name: str, step: Stage, sender: int, data: Any, reason: Reason, *, ends: bool = False) -> Case:
        match data:
            case MaskedVector():
                fed: Case = {"vector": words(data)}
            case bytes() | None:
                fed = {"bytes": None if data is None else data.hex()}
            case _:
                fed = {"bytes": encode(data, context=context).hex()}
        place = {"name": f"{step.value}: {name}", "of": FIVE, "step": step.value, "sender": sender}
        return {**place, **fed, "ends": ends, "stage": step.value, "reason": reason.name}

    cut = run.answered[Stage.ADVERTISE][4][:-1]
    unsigned = replace(advert, signature=Signature(bytes(64)))
    elsewhere = agreement(run, 1, survivors=(0, 1, 2))
    shown_less = presence(run, 1, present=(0, 1, 2, 3))
    asked = presence(run, 1, present=(0, 1, 2, 3, 4), request=digest(b"another model"))
    return [
        case("last byte missing", Stage.ADVERTISE, 4, cut, Reason.MALFORMED),
        case("another's position", Stage.ADVERTISE, 4, others, Reason.NOT_LISTED),
        case("a signature missing", Stage.ADVERTISE, 4, unsigned, Reason.SIGNATURE),
        case("a key that gives no secret", Stage.ADVERTISE, 4, small, Reason.KEY),
        case("a key in another spelling", Stage.ADVERTISE, 4, spelled, Reason.MALFORMED),
        case("another's key", Stage.ADVERTISE, 4, copied, Reason.DUPLICATE),
        case("a share missing", Stage.SHARE, 4, replace(letters, sealed=letters.sealed[1:]), Reason.SHARE),
        case("another's position", Stage.SHARE, 4, replace(letters, sender=3), Reason.NOT_LISTED),
        case("an update too long", Stage.MASK, 1, long, Reason.VECTOR, ends=True),
        case("a presence over another U2", Stage.MASK, 1, shown_less, Reason.SIGNATURE, ends=True),
        case("a presence under another request", Stage.MASK, 1, asked, Reason.SIGNATURE, ends=True),
        case("another's presence", Stage.MASK, 1, run.presences[2], Reason.NOT_LISTED, ends=True),
        case("a presence missing", Stage.MASK, 1, b"", Reason.MALFORMED, ends=True),
        case("a signature over other survivors", Stage.AGREE, 1, elsewhere, Reason.SIGNATURE),
        case("a share missing", Stage.UNMASK, 1, replace(reveal, shares=reveal.shares[1:]), Reason.SHARE),
        case("a wrong share", Stage.UNMASK, 0, changed, Reason.SECRET, ends=True),
        case("shares of too few", Stage.UNMASK, 0, None, Reason.TOO_FEW, ends=True),
    ]


def round_cases(runs: Runs) -> list[Case]:
    """Bytes that are no round. The number of members stands at `at`, the threshold 22 bytes before the end."""
    good = runs["protocol-n3"].round
    data = good.encode()
    at = 1 + 4 + len(good.run) + 32 + 4 + 4 + 1
    first = at + 4
    size = 4 + len(good.members[0].name) + 32
    rest = first + 2 * size  # the first two names are equally long
    swapped = data[:first] + data[first + size : rest] + data[first : first + size] + data[rest:]
    twice = data[: first + 2 * size - 32] + data[first + size - 32 : first + size] + data[rest:]
    cases = (
        ("last byte missing", data[:-1], "Malformed"),
        ("a byte too many", data + b"\x00", "Malformed"),
        ("another version", b"\x02" + data[1:], "Malformed"),
        ("an unknown purpose", data[: at - 1] + b"\x02" + data[at:], "Malformed"),
        ("a run that is not UTF-8", data[:5] + b"\xff" + data[6:], "Malformed"),
        ("more members than can be", data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :], "Malformed"),
        ("members out of order", swapped, "BadInput"),
        ("an identity twice", twice, "BadInput"),
        ("a threshold of half or less", data[:-22] + b"\x00\x00\x00\x01" + data[-18:], "BadInput"),
        ("a threshold above the cohort", data[:-22] + b"\x00\x00\x00\x04" + data[-18:], "BadInput"),
        ("no edges where all are needed", data[:-18] + b"\x00\xff" + data[-16:], "BadInput"),
        ("round 0", data[: at - 9] + bytes(4) + data[at - 5 :], "BadInput"),
    )
    Round.decode(data)
    return [{"name": name, "bytes": fed.hex(), "raises": raises} for name, fed, raises in cases]
