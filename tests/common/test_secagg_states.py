"""All pairs of a state and a step: a step in another state than its own is refused, in words that name both."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass
from itertools import product
from typing import get_args

import pytest
from cohort import REQUEST, Coins, Drive, aborts, make_round

from tacit.secagg import client, messages, server, states
from tacit.secagg import round as rounds
from tacit.secagg.abort import Reason, Stage
from tacit.secagg.states import Advertised, Agreed, Done, Masked, Opened, Session, Shared, State

OWN = {
    "share": (Advertised, Stage.SHARE),
    "open_shares": (Shared, Stage.MASK),
    "mask": (Opened, Stage.MASK),
    "approve": (Masked, Stage.AGREE),
    "unmask": (Agreed, Stage.UNMASK),
}
STATES = (Advertised, Shared, Opened, Masked, Agreed, Done)
PAIRS = list(product(STATES, OWN))


@pytest.fixture(scope="module")
def honest() -> tuple[Drive, dict[type, object]]:
    """A whole run, and the first partner's state of every type in it."""
    drive = Drive(make_round(4)).to(Stage.UNMASK)
    states = [drive.at[stage].states[0] for stage in (Stage.SHARE, Stage.MASK, Stage.AGREE, Stage.UNMASK)]
    opened = client.open_shares(states[1], drive.at[Stage.MASK].message[0])
    done, _ = client.unmask(states[3], drive.at[Stage.UNMASK].message)
    return drive, {type(state): state for state in (*states, opened, done)}


def _take(drive: Drive, step: str, state):
    match step:
        case "share":
            return client.share(state, drive.at[Stage.SHARE].message, random=Coins())[0]
        case "open_shares":
            return client.open_shares(state, drive.at[Stage.MASK].message[0])
        case "mask":
            return client.mask(state, drive.vectors[0], request=REQUEST)[0]
        case "approve":
            return client.approve(state, drive.at[Stage.AGREE].message)[0]
        case "unmask":
            return client.unmask(state, drive.at[Stage.UNMASK].message)[0]


def test_the_pairs_are_all_there_are(honest):
    assert len(PAIRS) == 30
    assert get_args(State) == STATES
    assert set(honest[1]) == set(STATES)
    assert sorted([*OWN, "advertise"]) == client.__all__


@pytest.mark.parametrize(("kind", "step"), PAIRS, ids=lambda x: getattr(x, "__name__", x))
def test_a_step_is_taken_in_its_own_state_alone(honest, kind, step):
    drive, states = honest
    own, stage = OWN[step]
    if kind is own:
        after = (*STATES, Done)[STATES.index(kind) + 1]
        assert type(_take(drive, step, states[kind])) is after
        return
    expected = f"expected a partner in state {own.__name__}, found {kind.__name__}$"
    with aborts(stage, Reason.ORDER, match=expected):
        _take(drive, step, states[kind])


@pytest.mark.parametrize("step", OWN)
def test_what_is_no_state_is_refused(honest, step):
    drive, states = honest
    for other in (None, states[Shared].session):
        with aborts(OWN[step][1], Reason.ORDER, match=f"found {type(other).__name__}$"):
            _take(drive, step, other)


def test_states_do_not_change(honest):
    for state in honest[1].values():
        for name in [field.name for field in fields(state)] or ["anything"]:
            with pytest.raises(FrozenInstanceError):
                setattr(state, name, None)


def test_every_record_is_frozen_and_those_with_secrets_are_not_printed():
    found = {cls for module in (messages, rounds, server, states) for cls in vars(module).values() if is_dataclass(cls)}
    assert len(found) == 29
    assert all(cls.__dataclass_params__.frozen for cls in found)
    bare = {cls.__name__ for cls in found if not cls.__dataclass_params__.repr}
    records = {"Confirmed", "Gathering", "Listed", "MaskedVector", "Party", "Reveal", "Sum"}
    assert bare == {cls.__name__ for cls in (Advertised, Agreed, Masked, Opened, Session, Shared)} | records


def test_own_secrets_are_gone_once_masked():
    """After stage 2 a partner holds shares of others and one share each of its own; no key, no seed."""
    assert {field.name for field in fields(Masked)} == {
        "round",
        "party",
        "me",
        "session",
        "request",
        "neighbours",
        "needed",
        "held",
        "present",
        "step",
    }
    assert {field.name for field in fields(Agreed)} == {"masked", "survivors"}
    assert not fields(Done)
