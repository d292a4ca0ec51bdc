"""What a partner must refuse: messages of an honest round, changed in one place each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from forgery import ATTACKER, FIVE, NOBODY, agreement, presence, respelled, signed
from play import NAMES, Play, rules_document, words

from tacit.secagg.abort import Reason, Stage
from tacit.secagg.keys import PublicKey, Signature, digest, identity_of, public_of
from tacit.secagg.messages import (
    Advert,
    Agreement,
    Inbox,
    MaskedVector,
    Presence,
    Quorum,
    Roster,
    Survivors,
    decode,
    encode,
)
from tacit.secagg.round import Member, Rules

__all__ = ["partner_cases"]

Runs = Mapping[str, Play]
Case = dict[str, Any]
THREE, FOUR = "protocol-n3", "protocol-n4-dropouts"
BEFORE = {
    Stage.ADVERTISE: None,
    Stage.SHARE: Stage.ADVERTISE,
    Stage.MASK: Stage.SHARE,
    Stage.AGREE: Stage.MASK,
    Stage.UNMASK: Stage.AGREE,
}


def _case(
    name: str, of: str, step: Stage, data: bytes | MaskedVector, reason: Reason, *, after: Stage | None = None
) -> Case:
    """One for the partner at position 0, by default in the state in which it awaits `step`."""
    reached = after or BEFORE[step]
    fed = {"vector": words(data)} if isinstance(data, MaskedVector) else {"bytes": data.hex()}
    expected = {"stage": step.value, "reason": reason.name}
    return {
        "name": name,
        "of": of,
        "party": 0,
        "after": reached and reached.value,
        "step": step.value,
        **fed,
        **expected,
    }


def partner_cases(runs: Runs) -> list[Case]:
    """For the partner at position 0."""
    return [
        *_bytes_changed(runs[THREE]),
        *_rounds_against_the_rules(runs[FIVE]),
        *_rosters(runs[FOUR]),
        *_inboxes(runs[FOUR], runs[FIVE]),
        *_survivors(runs[FOUR], runs[FIVE]),
        *_quorums(runs[FIVE]),
        *_out_of_order(runs[THREE]),
    ]


def _bytes_changed(run: Play) -> list[Case]:
    """Any message, one byte off."""
    found = []
    for step in (Stage.SHARE, Stage.MASK, Stage.AGREE, Stage.UNMASK):
        data = run.received[step][0] if step is Stage.MASK else run.received[step]
        found += [
            _case(f"{step.value}: last byte missing", THREE, step, data[:-1], Reason.MALFORMED),
            _case(f"{step.value}: a byte too many", THREE, step, data + b"\x00", Reason.MALFORMED),
            _case(f"{step.value}: another version", THREE, step, b"\x02" + data[1:], Reason.MALFORMED),
            _case(f"{step.value}: another kind", THREE, step, data[:1] + b"\x09" + data[2:], Reason.MALFORMED),
            _case(f"{step.value}: another ctx", THREE, step, data[:2] + bytes(32) + data[34:], Reason.OTHER_ROUND),
        ]
    found.append(_case("share: nothing", THREE, Stage.SHARE, b"", Reason.MALFORMED))
    return found


def _rounds_against_the_rules(run: Play) -> list[Case]:
    new, party = run.round, run.parties[0]
    own, peers = new.members[0], dict(party.rules.peers)
    other = Member(NAMES[1], identity_of(ATTACKER))
    changed = (Member(own.name, other.identity), *new.members[1:])

    def case(name: str, reason: Reason, *, rules: Rules = party.rules, members: tuple[Member, ...] = ()) -> Case:
        asked = replace(new, members=members) if members else new
        found = _case(f"advertise: {name}", FIVE, Stage.ADVERTISE, asked.encode(), reason)
        return found if rules is party.rules else {**found, "rules": rules_document(rules)}

    def with_peers(*names: str) -> dict[str, PublicKey]:
        return {name: peers[name] for name in names}

    careful = replace(party.rules, majority=False)
    alone, one = replace(party.rules, peers={}), replace(party.rules, peers=with_peers(*NAMES[1:4]))
    return [
        case("not in the cohort", Reason.NOT_LISTED, members=new.members[1:]),
        case("own name with another key", Reason.NOT_LISTED, members=changed),
        case("a pinned name with another key", Reason.IDENTITY, members=(own, other, *new.members[2:])),
        case("a threshold under the floor", Reason.THRESHOLD, rules=careful),
        case("a cohort of strangers", Reason.COHORT, rules=alone),
        case("strangers who could sign two lists", Reason.STRANGERS, rules=one),
    ]


def _rosters(run: Play) -> list[Case]:
    new = run.round
    all_ = decode(Roster, run.received[Stage.SHARE], context=new.context).adverts
    own, b, c, d = all_
    stolen, key = public_of(ATTACKER), run.parties[1].key

    def case(name: str, reason: Reason, *adverts: Advert) -> Case:
        return _case(f"share: {name}", FOUR, Stage.SHARE, encode(Roster(adverts), context=new.context), reason)

    return [
        case("a swapped key under the old signature", Reason.SIGNATURE, own, replace(b, mask_key=stolen), c, d),
        case(
            "a swapped key signed by another",
            Reason.SIGNATURE,
            own,
            signed(run, 1, key=ATTACKER, share=stolen, mask=b.mask_key),
            c,
            d,
        ),
        case("a signature missing", Reason.SIGNATURE, own, replace(b, signature=Signature(bytes(64))), c, d),
        case(
            "keys exchanged",
            Reason.SIGNATURE,
            own,
            replace(b, share_key=b.mask_key, mask_key=b.share_key),
            c,
            d,
        ),
        case("a sender twice", Reason.DUPLICATE, own, b, b, c),
        case("senders out of order", Reason.DUPLICATE, own, c, b, d),
        case(
            "another's keys, signed anew",
            Reason.DUPLICATE,
            own,
            signed(run, 1, key=key, share=c.share_key, mask=c.mask_key),
            c,
            d,
        ),
        case("own keys changed", Reason.OWN_KEYS, replace(own, mask_key=stolen), b, c, d),
        case("own keys missing", Reason.OWN_KEYS, b, c, d),
        case("nobody", Reason.OWN_KEYS),
        case("fewer than the threshold", Reason.TOO_FEW, own, b),
        case("a position outside the cohort", Reason.NOT_LISTED, own, b, c, replace(d, sender=4)),
        case("a key that gives no secret", Reason.KEY, own, signed(run, 1, key=key, share=NOBODY, mask=stolen), c, d),
        case(
            "a key in another spelling",
            Reason.MALFORMED,
            own,
            signed(run, 1, key=key, share=b.share_key, mask=respelled(b.mask_key)),
            c,
            d,
        ),
    ]


def _inboxes(run: Play, five: Play) -> list[Case]:
    new = run.round
    box = decode(Inbox, run.received[Stage.MASK][0], context=new.context)
    (b, first), (c, second), third = box.sealed
    tampered = bytes([first[0] ^ 1]) + first[1:]
    few = decode(Inbox, five.received[Stage.MASK][0], context=five.round.context)
    long = MaskedVector(np.zeros(new.update + 1, dtype=np.uint32), np.zeros(new.counters, dtype=np.uint64))
    short = MaskedVector(np.zeros(new.update, dtype=np.uint32), np.zeros(0, dtype=np.uint64))

    def case(name: str, reason: Reason, present: tuple[int, ...], *sealed: tuple[int, bytes]) -> Case:
        return _case(f"mask: {name}", FOUR, Stage.MASK, encode(Inbox(present, sealed), context=new.context), reason)

    cohort = _case(
        "mask: too few accepted peers left",
        FIVE,
        Stage.MASK,
        encode(Inbox((0, 1, 2, 3), few.sealed[:3]), context=five.round.context),
        Reason.COHORT,
    )
    return [
        case("a tampered share", Reason.SHARE, box.present, (b, tampered), (c, second), third),
        case("shares of two senders exchanged", Reason.SHARE, box.present, (b, second), (c, first), third),
        case("a share missing", Reason.SHARE, box.present, (b, first), (c, second)),
        case("a share left over", Reason.SHARE, (0, 1, 2), *box.sealed),
        _case("mask: another's inbox", FOUR, Stage.MASK, run.received[Stage.MASK][1], Reason.SHARE),
        case("fewer than the threshold", Reason.TOO_FEW, (0, 1), (b, first)),
        case("itself missing", Reason.NOT_LISTED, (1, 2, 3), *box.sealed),
        case("a position that gave no keys", Reason.NOT_LISTED, (*box.present, 4), *box.sealed),
        case("a position twice", Reason.DUPLICATE, (0, 1, 1, 2), *box.sealed),
        case("a sender twice", Reason.DUPLICATE, box.present, (b, first), (b, first), third),
        {**cohort, "rules": _strict(five)},
        _case("mask: an update too long", FOUR, Stage.MASK, long, Reason.VECTOR),
        _case("mask: no counters", FOUR, Stage.MASK, short, Reason.VECTOR),
    ]


def _strict(five: Play) -> dict[str, Any]:
    return rules_document(replace(five.parties[0].rules, min_cohort=5))


def _survivors(run: Play, five: Play) -> list[Case]:
    new = run.round
    own, b, c = decode(Survivors, run.received[Stage.AGREE], context=new.context).presences
    said = {presence.sender: presence for presence in (own, b, c)}
    unsigned = Signature(bytes(64))

    def case(name: str, reason: Reason, *survivors: int | Presence) -> Case:
        """Positions stand for what they signed, or for no signature."""
        given = (said.get(s, Presence(s, unsigned)) if isinstance(s, int) else s for s in survivors)
        data = encode(Survivors(tuple(given)), context=new.context)
        return _case(f"agree: {name}", FOUR, Stage.AGREE, data, reason)

    bare = run.received[Stage.AGREE][:38] + b"".join(i.to_bytes(4, "big") for i in said)
    shown_less = presence(run, 1, present=(0, 1, 2))
    asked = presence(run, 1, present=(0, 1, 2, 3), request=digest(b"another model"))
    cohort = _case("agree: too few accepted peers left", FIVE, Stage.AGREE, five.received[Stage.AGREE], Reason.COHORT)
    return [
        case("not within those who shared", Reason.NOT_LISTED, 0, 1, 2, 4),
        case("itself missing", Reason.NOT_LISTED, 1, 2, 3),
        case("nobody", Reason.NOT_LISTED),
        case("fewer than the threshold", Reason.TOO_FEW, 0, 1),
        case("a survivor twice", Reason.DUPLICATE, 0, 1, 1, 2),
        case("survivors out of order", Reason.DUPLICATE, 0, 2, 1),
        case("a neighbour that masked with others", Reason.SIGNATURE, own, shown_less, c),
        case("a neighbour that was asked something else", Reason.SIGNATURE, own, asked, c),
        case("a neighbour with another's signature", Reason.SIGNATURE, own, replace(b, signature=c.signature), c),
        case("a neighbour without a signature", Reason.SIGNATURE, own, b, replace(c, signature=unsigned)),
        _case("agree: positions alone", FOUR, Stage.AGREE, bare, Reason.MALFORMED),
        {**cohort, "rules": _strict(five)},
    ]


def _quorums(run: Play) -> list[Case]:
    new = run.round
    right = decode(Quorum, run.received[Stage.UNMASK], context=new.context).agreements
    others = tuple(agreement(run, i, survivors=(0, 1, 2)) for i in (0, 1, 2))
    asked = tuple(agreement(run, i, request=digest(b"another model")) for i in (0, 1, 2))
    stranger = Agreement(4, right[2].signature)
    wrong = replace(right[1], signature=Signature(bytes(64)))

    def case(name: str, reason: Reason, *agreements: Agreement) -> Case:
        data = encode(Quorum(agreements), context=new.context)
        return _case(f"unmask: {name}", FIVE, Stage.UNMASK, data, reason)

    return [
        case("a wrong signature", Reason.SIGNATURE, right[0], wrong, right[2]),
        case("signatures over other survivors", Reason.SIGNATURE, *others),
        case("one signature over other survivors", Reason.SIGNATURE, *right[:2], others[2]),
        case("signatures under another request", Reason.SIGNATURE, *asked),
        case("a signature too few", Reason.TOO_FEW, *right[:2]),
        case("a signer who did not survive", Reason.NOT_LISTED, *right[:2], stranger),
        case("a signer twice", Reason.DUPLICATE, right[0], right[0], right[1]),
    ]


def _out_of_order(run: Play) -> list[Case]:
    """The right message, in a state that does not await it."""
    inbox = run.received[Stage.MASK][0]
    feeds = (
        ("a second roster", Stage.SHARE, Stage.SHARE, run.received[Stage.SHARE]),
        ("an inbox before the roster", Stage.MASK, Stage.ADVERTISE, inbox),
        ("a second inbox", Stage.MASK, Stage.MASK, inbox),
        ("survivors before the vector", Stage.AGREE, Stage.SHARE, run.received[Stage.AGREE]),
        ("a second list of survivors", Stage.AGREE, Stage.AGREE, run.received[Stage.AGREE]),
        ("a quorum before the signature", Stage.UNMASK, Stage.MASK, run.received[Stage.UNMASK]),
        ("a second unmask", Stage.UNMASK, Stage.UNMASK, run.received[Stage.UNMASK]),
    )
    return [
        _case(f"{step.value}: {name}", THREE, step, data, Reason.ORDER, after=after)
        for name, step, after, data in feeds
    ]
