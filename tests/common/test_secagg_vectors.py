"""The written vectors of secure aggregation: made again, and replayed through both sides."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from replay import FOLDER, ROUNDS, STAGES, Document, Replay, Serve, load, vector_of, words

from tacit import errors
from tacit.codec import Malformed
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.keys import Digest, Secret, open_sealed
from tacit.secagg.messages import (
    Advert,
    Agreement,
    Envelopes,
    Inbox,
    Presence,
    Quorum,
    Reveal,
    Roster,
    Survivors,
    decode,
    encode,
)
from tacit.secagg.round import Round
from tacit.secagg.shamir import combine

HOSTILE, REJECTED = load("hostile")["cases"], load("rejected")


def _names(cases: list[Document]) -> list[str]:
    return [case["name"] for case in cases]


def test_the_files_are_those_that_are_generated(tmp_path):
    for arguments in (["--check"], ["--into", str(tmp_path)]):
        done = _generate(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    names = sorted(path.name for path in FOLDER.glob("*.json"))
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 8
    for name in names:
        assert (FOLDER / name).read_bytes() == (tmp_path / name).read_bytes(), name
        assert (FOLDER / name).stat().st_size < 75_000, name


def test_a_changed_file_is_named(tmp_path):
    _generate("--into", str(tmp_path))
    (tmp_path / "primitives.json").write_text("{}\n", encoding="utf-8")
    done = _generate("--check", "--into", str(tmp_path))
    assert done.returncode == 1
    assert "expected primitives.json as generated" in done.stderr


def _generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "generate.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ROUNDS)
def test_partners_answer_byte_for_byte(name):
    document, seen = load(name), 0
    for i in document["parties"]:
        partner = Replay(document, int(i))
        for stage in STAGES:
            expected = document["stages"][stage.value]["answered"].get(i)
            if expected is not None:
                assert partner.answer(stage, partner.received(stage)) == expected, (i, stage)
                seen += 1
    assert (
        seen == {"protocol-n3": 15, "protocol-n4-dropouts": 17, "protocol-n5-majority": 21, "counters-only": 15}[name]
    )


@pytest.mark.parametrize("name", ROUNDS)
def test_the_server_says_byte_for_byte(name):
    document = load(name)
    served = Serve(document)
    for stage in STAGES[1:]:
        served.to(stage)
        expected = document["stages"][stage.value]["received"]
        assert served.says == (expected if stage is Stage.MASK else bytes.fromhex(expected)), stage
    served.finish()
    assert served.sum is not None
    assert {"survivors": list(served.sum.survivors), **words(served.sum)} == document["sum"]
    assert served.rejected == {}


def test_every_message_encodes_to_its_own_bytes():
    kinds: dict[Stage, tuple[Any, Any]] = {
        Stage.ADVERTISE: (None, Advert),
        Stage.SHARE: (Roster, Envelopes),
        Stage.MASK: (Inbox, Presence),
        Stage.AGREE: (Survivors, Agreement),
        Stage.UNMASK: (Quorum, Reveal),
    }
    seen: Counter[str] = Counter()
    for name in ROUNDS:
        document = load(name)
        context = Digest(bytes.fromhex(document["round"]["context"]))
        for stage, (down, up) in kinds.items():
            said = document["stages"][stage.value]
            received = list(said["received"].values()) if stage is Stage.MASK else [said["received"]]
            answered = said["answered"].values()
            replies = [reply["presence"] for reply in answered] if stage is Stage.MASK else answered
            for kind, found in ((down, received), (up, replies)):
                for hexes in found if kind else ():
                    assert encode(decode(kind, bytes.fromhex(hexes), context=context), context=context).hex() == hexes
                    seen[kind.__name__] += 1
        encoded = document["round"]["encoded"]
        assert Round.decode(bytes.fromhex(encoded)).encode().hex() == encoded
        assert Round.decode(bytes.fromhex(encoded)).context == context
    expected = {"Advert": 15, "Roster": 4, "Envelopes": 15, "Inbox": 15, "Presence": 13, "Survivors": 4}
    assert seen == {**expected, "Agreement": 13, "Quorum": 4, "Reveal": 12}


def test_the_cases_are_many_and_of_every_reason():
    assert (len(HOSTILE), len(REJECTED["server"]), len(REJECTED["rounds"])) == (80, 17, 12)
    for cases in (HOSTILE, REJECTED["server"], REJECTED["rounds"]):
        assert len(set(_names(cases))) == len(cases)
    found = {case["reason"] for case in (*HOSTILE, *REJECTED["server"])}
    # The other two are raised by who calls the protocol: what was seen before, and what was asked.
    assert found == {reason.name for reason in Reason} - {"REPEATED", "REQUEST"}


@pytest.mark.parametrize("case", HOSTILE, ids=_names(HOSTILE))
def test_a_partner_refuses(case):
    after = None if case["after"] is None else Stage(case["after"])
    partner = Replay(load(case["of"]), case["party"], rules=case.get("rules")).up_to(after)
    step = Stage(case["step"])
    if "vector" in case:
        partner.vector = vector_of(case["vector"])
        data = partner.received(step)
    else:
        data = bytes.fromhex(case["bytes"])
    with pytest.raises(Abort) as caught:
        partner.answer(step, data)
    assert (caught.value.stage.value, caught.value.reason.name) == (case["stage"], case["reason"])


@pytest.mark.parametrize("case", REJECTED["server"], ids=_names(REJECTED["server"]))
def test_the_server_does_not_count(case):
    served = Serve(load(case["of"]), replaced=case)
    before = STAGES[1 : STAGES.index(Stage(case["step"])) + 1]
    for stage in before:
        served.to(stage)
    assert served.rejected == {}
    following = [*STAGES[1:], None][STAGES.index(Stage(case["step"]))]
    if case["ends"]:
        with pytest.raises(Abort) as caught:
            served.finish() if following is None else served.to(following)
        error = caught.value
    else:
        served.finish() if following is None else served.to(following)
        assert set(served.rejected) == {case["sender"]}
        error = served.rejected[case["sender"]]
    assert (error.stage.value, error.reason.name) == (case["stage"], case["reason"])


@pytest.mark.parametrize("case", REJECTED["rounds"], ids=_names(REJECTED["rounds"]))
def test_bytes_that_are_no_round(case):
    error = {"Malformed": Malformed, "BadInput": errors.BadInput}[case["raises"]]
    with pytest.raises(error):
        Round.decode(bytes.fromhex(case["bytes"]))


def test_shares_and_seals_are_undone():
    """The other direction is made again with the files."""
    found = load("primitives")
    key, plain, bound, sealed = (bytes.fromhex(found["seal"][name]) for name in ("key", "plain", "bound", "sealed"))
    assert open_sealed(Secret(key), sealed, bound=bound) == plain
    assert len(found["sharing"]) == 3
    for case in found["sharing"]:
        shares = {int(x): bytes.fromhex(piece) for x, piece in case["shares"].items()}
        enough = dict(list(shares.items())[-case["threshold"] :])
        assert bytes(combine(enough)).hex() == case["secret"]
