"""Writes the test vectors of secure aggregation beside this file; `--check` compares instead, and exits 1.

    python tests/vectors/generate.py [--check] [--into FOLDER]

Randomness is SHA-256 in counter mode over a written seed (`play.Tape`), so every run writes the same bytes. Bytes are
hex throughout. Vectors are texts of words, 8 hex digits for `update` and 16 for `counters`, highest digit first.

`protocol-*.json`: a whole round.
    round      the fields of `Round`, with `encoded`, what partners receive in stage 0, and `context`, its hash
    request    hash of what was asked in stage 2
    session    hash of the round and its roster
    parties    by position: name, `identity_key` (private), rules, `random` drawn in stages `advertise` (the private
               `c` and `s` keys) and `share` (the seed `b`, then 48 bytes a coefficient: those of `b`, those of `s`,
               of the highest power first), and `vector`, the plain one
    stages     by stage: `received`, one message for all, in stage `mask` one by position; `answered`, by position, in
               stage `mask` the vector's words and the `presence` beside it
    sum        survivors and their sum

`block-n4.json`: a block of two steps. `round`, `session` and `parties` are as above, `random` of stage `share` being
step after step the seed and the coefficients; `advertise`, `share` and `inboxes` are said once. Of each of `steps`:
    request, session   of the step
    vectors, answered  by position, plain ones, and masked ones with their `presence`
    agree, agreed      list of survivors and its signatures by position, where somebody is missing
    unmask, revealed   `Complete` or `Quorum`, and the answers by position
    sum                survivors and their sum

`primitives.json`: inputs and outputs of `label`, `derive`, `seal`, `add_mask` (words of the mask of a zero vector),
`split` and `combine`, `session_of`, `commitment` and the sparse graph.

`hostile.json`: what a partner must refuse.
    cases      take partner `party` of round `of`, with `rules` in place of its own where there are any; let it
               answer honestly up to stage `after` (null: nothing yet); then give it `bytes` in stage `step` (a
               `vector` in stage mask comes after the right inbox). It refuses at `stage` for `reason`.

`rejected.json`: what a server must not count, and what is no round.
    server     cases: the answer of position `sender` in stage `step` of round `of` is replaced by `bytes`, or by
               `vector`, or by nothing where both are null; in stage `mask` `bytes` stand for the presence beside
               the right vector. It is set aside (`ends` false) or ends the round (`ends`
               true) at `stage` for `reason`.
    rounds     cases: `bytes` that are no round; decoding raises the error that `raises` names.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from block import block_document
from hostile import partner_cases
from play import SEED, Play, Tape, make_round, play, rules_document, words
from rejected import round_cases, server_cases

from tacit.secagg.abort import Stage
from tacit.secagg.bindings import commitment, session_of
from tacit.secagg.graph import Graph, default_threshold, edge_chance
from tacit.secagg.keys import Secret, derive, digest, seal
from tacit.secagg.labels import USAGES, label
from tacit.secagg.prg import add_mask
from tacit.secagg.round import Round
from tacit.secagg.shamir import split

HERE = Path(__file__).parent


def plays() -> dict[str, Play]:
    """The rounds, by the name of their file."""
    rounds = {
        "protocol-n3": make_round("n3", n=3, update=5),
        "protocol-n4-dropouts": make_round("n4", n=4, update=4, number=2),
        "protocol-n5-majority": make_round("n5", n=5, update=3, majority=True, number=3),
        "counters-only": make_round("counters", n=3, update=0, purpose="evaluate", number=4),
    }
    vanish = {
        "protocol-n4-dropouts": {3: Stage.MASK},
        "protocol-n5-majority": {4: Stage.MASK, 1: Stage.UNMASK},
    }
    return {name: play(name, *made, vanish=vanish.get(name, {})) for name, made in rounds.items()}


def protocol(about: str, run: Play) -> dict[str, Any]:
    """A round as JSON."""
    parties = {
        i: {
            "name": party.name,
            "identity_key": bytes(party.key).hex(),
            "rules": rules_document(party.rules),
            "random": run.random[i],
            "vector": words(run.plain[i]),
        }
        for i, party in run.parties.items()
    }
    if run.sum is None:
        raise ValueError("expected a round that came to its end, found none")
    return {
        "about": about,
        "seed": SEED,
        "round": round_document(run.round),
        "request": run.request.hex(),
        "session": run.servers[Stage.SHARE].session.hex(),
        "parties": parties,
        "stages": {stage.value: _stage(run, stage) for stage in Stage},
        "sum": {"survivors": run.sum.survivors, **words(run.sum)},
    }


def round_document(new: Round) -> dict[str, Any]:
    """The fields of a round."""
    fields = ("run", "job", "number", "attempt", "purpose", "threshold", "edges", "update", "counters")
    return {
        **{name: getattr(new, name) for name in fields},
        "members": [{"name": member.name, "identity": member.identity.hex()} for member in new.members],
        "encoded": new.encode().hex(),
        "context": new.context.hex(),
    }


def _stage(run: Play, stage: Stage) -> dict[str, Any]:
    received, answered = run.received[stage], run.answered[stage]
    if stage is Stage.MASK:
        inboxes = {i: data.hex() for i, data in received.items()}
        vectors = {i: {**words(found), "presence": run.presences[i].hex()} for i, found in answered.items()}
        return {"received": inboxes, "answered": vectors}
    return {"received": received.hex(), "answered": {i: data.hex() for i, data in answered.items()}}


def primitives() -> dict[str, Any]:
    """Each primitive on its own."""
    return {
        "about": "inputs and outputs of single functions",
        "seed": SEED,
        "label": _labels(),
        "derive": _derived(),
        "seal": _sealed(),
        "add_mask": [_mask(np.dtype(kind)) for kind in ("uint32", "uint64")],
        "sharing": [_shared(3, (1, 2, 3)), _shared(2, (1, 4, 9, 70)), _shared(1, (5,))],
        "session": _session(),
        "graph": _graph(100, absent=(3, 50)),
    }


def _labels() -> list[dict[str, Any]]:
    parts: tuple[bytes | int | str, ...] = (b"\x00\x01", "update", 7)
    lists = [(usage, parts) for usage in USAGES] + [("agree", ()), ("agree", (b"7",)), ("agree", ("7",))]
    kinds = {bytes: "bytes", str: "text", int: "number"}
    return [
        {
            "usage": usage,
            "parts": [{kinds[type(part)]: part.hex() if isinstance(part, bytes) else part} for part in found],
            "label": label(usage, *found).hex(),
        }
        for usage, found in lists
    ]


def _derived() -> dict[str, str]:
    secret, info = Secret(Tape("derive")(32)), label("self", b"session", 0, "update")
    return {"secret": bytes(secret).hex(), "info": info.hex(), "key": bytes(derive(secret, info)).hex()}


def _sealed() -> dict[str, str]:
    tape, bound = Tape("seal"), label("share", b"session", 0, 1)
    key, plain = Secret(tape(32)), tape(66)
    sealed = seal(key, plain, bound=bound)
    return {"key": bytes(key).hex(), "plain": plain.hex(), "bound": bound.hex(), "sealed": sealed.hex()}


def _mask(kind: np.dtype[Any]) -> dict[str, Any]:
    """The mask's first words, and those around the end of the first block of 2^17 bytes."""
    key, edge = Secret(Tape(f"mask {kind}")(32)), 2**17 // kind.itemsize
    vector = np.zeros(edge + 4, dtype=kind)
    add_mask(vector, key, sign=1)
    shown = [*range(8), *range(edge - 2, edge + 4)]
    digits = 2 * kind.itemsize
    return {
        "kind": str(kind),
        "key": bytes(key).hex(),
        "length": len(vector),
        "words": {str(at): f"{int(vector[at]):0{digits}x}" for at in shown},
    }


def _shared(threshold: int, holders: tuple[int, ...]) -> dict[str, Any]:
    tape = Tape(f"sharing {threshold} of {len(holders)}")
    secret = Secret(tape(32))
    tape.cut()
    shares = split(secret, threshold=threshold, holders=holders, random=tape)
    return {
        "secret": bytes(secret).hex(),
        "threshold": threshold,
        "random": tape.cut(),
        "shares": {x: bytes(piece).hex() for x, piece in shares.items()},
    }


def _session() -> dict[str, Any]:
    new, _ = make_round("n3", n=3, update=5)
    roster, seed = Tape("roster")(20), Secret(Tape("seed")(32))
    session = session_of(new, roster)
    return {
        "context": new.context.hex(),
        "roster": roster.hex(),
        "session": session.hex(),
        "seed": bytes(seed).hex(),
        "owner": 2,
        "commitment": commitment(seed, session=session, owner=2).hex(),
    }


def _graph(n: int, *, absent: tuple[int, ...]) -> dict[str, Any]:
    threshold, session = default_threshold(n), digest(f"{SEED} / graph".encode())
    edges = edge_chance(n, threshold=threshold)
    graph = Graph(n, threshold=threshold, edges=edges, session=session, present=set(range(n)) - set(absent))
    return {
        "n": n,
        "threshold": threshold,
        "edges": edges,
        "session": session.hex(),
        "absent": absent,
        "neighbours": {i: " ".join(map(str, graph.neighbours(i))) for i in (0, 1, 49, 99)},
        "needed": {i: graph.needed(i) for i in (0, 1, 49, 99)},
    }


def documents() -> dict[str, str]:
    """All files by name."""
    runs = plays()
    about = {
        "protocol-n3": "three partners, nobody drops out",
        "protocol-n4-dropouts": "four partners, threshold 3; position 3 shares its keys and sends no vector",
        "protocol-n5-majority": "five partners that accept a threshold of 3; position 4 drops out before its vector, "
        "position 1 after its signature",
        "counters-only": "a round of evaluation: no update, three counters",
    }
    found = {name: protocol(about[name], run) for name, run in runs.items()}
    found["block-n4"] = block_document(
        "four partners, threshold 3, two steps; in the second position 3 sends no vector", round_document
    )
    found["primitives"] = primitives()
    found["hostile"] = {
        "about": "what a partner must refuse, at which stage and for which reason",
        "seed": SEED,
        "cases": partner_cases(runs),
    }
    found["rejected"] = {
        "about": "what a server sets aside or stops at, and bytes that are no round",
        "seed": SEED,
        "server": server_cases(runs),
        "rounds": round_cases(runs),
    }
    return {f"{name}.json": json.dumps(document, indent=1) + "\n" for name, document in found.items()}


def main(arguments: list[str]) -> int:
    """Write, or with `--check` compare; gives the exit code."""
    parser = argparse.ArgumentParser(description="Test vectors of secure aggregation.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing, exit 1 on a difference")
    parser.add_argument("--into", type=Path, default=HERE, help="the folder, by default that of this file")
    options = parser.parse_args(arguments)
    made = documents()
    if not options.check:
        for name, text in made.items():
            (options.into / name).write_text(text, encoding="utf-8")
        return 0
    there = {path.name: path.read_text(encoding="utf-8") for path in options.into.glob("*.json")}
    differing = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
    for name in differing:
        print(f"expected {name} as generated, found another: run python tests/vectors/generate.py", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
