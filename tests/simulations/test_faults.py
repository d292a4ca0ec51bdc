"""Partners that vanish: as often as asked, at every stage as often, for the rest of the round, and the same for one
seed."""

from __future__ import annotations

from collections import Counter
from math import sqrt

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from tacit.privacy.randomness import Randomness
from tacit.wire import ADVERTISE, AGREE, SHARE, TRAIN, UNMASK
from tacit_sim.faults import VANISHED, vanishing
from tacit_sim.grid import InlineGrid

ROUNDS, PARTNERS = 200, 5
TRIED = ROUNDS * PARTNERS
STAGES = (ADVERTISE, SHARE, TRAIN, AGREE, UNMASK)

Met = tuple[int, int, str]  # round, partner, message type


def _run(
    *,
    chance: float,
    seed: int,
    rounds: int = ROUNDS,
    kinds: tuple[str, ...] = (TRAIN,),
    group: str = "1.train",
    secure: bool = False,
) -> tuple[list[Met], list[Met]]:
    """Who worked, and who answered."""
    worked: list[Met] = []
    app = ClientApp(mods=[vanishing(chance=chance, randomness=Randomness(seed), name=_name, secure=secure)])

    def work(message: Message, context: Context) -> Message:
        number = int(message.metadata.group_id.partition(".")[0])
        worked.append((number, int(context.node_config["partition-id"]), message.metadata.message_type))
        return Message(RecordDict(), reply_to=message)

    app.train()(work)
    app.evaluate()(work)
    for stage in (*STAGES, "query.statement"):
        if stage != TRAIN:
            app.query(stage.removeprefix("query."))(work)
    grid, answered = InlineGrid(app, partners=PARTNERS), []
    for number in range(rounds):
        for kind in kinds:
            asked = [Message(RecordDict(), node, kind, group_id=f"{number}.{group}") for node in range(1, PARTNERS + 1)]
            for answer in grid.send_and_receive(asked):
                if answer.has_error():
                    assert answer.error.reason == VANISHED
                else:
                    answered.append((number, answer.metadata.src_node_id - 1, kind))
    return worked, answered


def _name(context: Context) -> str:
    return f"partner-{context.node_config['partition-id']}"


@pytest.mark.statistical
@pytest.mark.parametrize("chance", [0.2, 0.5])
def test_a_share_vanishes_half_of_it_after_its_work(chance):
    """Both counts within 4.5 standard deviations; a chance a third off would be 6 or more away."""
    worked, answered = _run(chance=chance, seed=0)
    lost = TRIED - len(answered)
    assert abs(lost - chance * TRIED) < 4.5 * sqrt(TRIED * chance * (1 - chance))
    late = len(worked) - len(answered)
    assert abs(late - lost / 2) < 4.5 * sqrt(lost / 4)
    assert set(answered) <= set(worked)


@pytest.mark.statistical
def test_under_secure_aggregation_every_place_is_as_likely_and_who_is_gone_stays_away():
    """Six places, each within 4.5 standard deviations of 1/6; one left out, or twice as likely, would be 10 away."""
    worked, answered = map(set, _run(chance=0.5, seed=0, kinds=STAGES, secure=True))
    gone: Counter[tuple[str, bool]] = Counter()
    for number in range(ROUNDS):
        for partner in range(PARTNERS):
            said = [kind for kind in STAGES if (number, partner, kind) in answered]
            assert said == list(STAGES[: len(said)])
            if len(said) < len(STAGES):
                missed = STAGES[len(said)]
                gone[missed, (number, partner, missed) in worked] += 1
    lost = gone.total()
    assert abs(lost - 0.5 * TRIED) < 4.5 * sqrt(TRIED / 4)
    assert gone.keys() == {(kind, False) for kind in STAGES} | {(TRAIN, True)}
    for count in gone.values():
        assert abs(count - lost / 6) < 4.5 * sqrt(lost * 5 / 36)


def test_the_seed_decides():
    first, again, other = (_run(chance=0.5, seed=seed, rounds=20) for seed in (1, 1, 2))
    assert first == again != other


def test_rounds_attempts_and_partners_vanish_apart():
    _, answered = _run(chance=0.5, seed=3, rounds=40)
    by_round = {tuple((n, p, TRAIN) in answered for p in range(PARTNERS)) for n in range(40)}
    by_partner = {tuple((n, p, TRAIN) in answered for n in range(40)) for p in range(PARTNERS)}
    assert len(by_round) > 10
    assert len(by_partner) == PARTNERS
    assert _run(chance=0.5, seed=3, rounds=40, group="2.train")[1] != answered


@pytest.mark.parametrize("secure", [False, True])
def test_nobody_vanishes_without_chance_or_outside_training(secure):
    all_of_them = 20 * PARTNERS
    assert len(_run(chance=0.0, seed=0, rounds=20, secure=secure)[1]) == all_of_them
    evaluation = (*STAGES[:2], "evaluate", *STAGES[3:])
    _, answered = _run(chance=0.9, seed=0, rounds=20, kinds=evaluation, group="1.evaluate", secure=secure)
    assert len(answered) == len(evaluation) * all_of_them
    _, answered = _run(chance=0.9, seed=0, rounds=20, kinds=("query.statement",), group="1.query.statement")
    assert len(answered) == all_of_them
