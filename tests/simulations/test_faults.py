"""Partners that vanish: as often as asked, before or after their work, and the same for one seed."""

from __future__ import annotations

from math import sqrt

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from tacit.privacy.randomness import Randomness
from tacit_sim.faults import VANISHED, vanishing
from tacit_sim.grid import InlineGrid

ROUNDS, PARTNERS = 200, 5
TRIED = ROUNDS * PARTNERS


def _run(*, chance: float, seed: int, rounds: int = ROUNDS, kind: str = "train") -> tuple[list[tuple], list[tuple]]:
    """(who worked, who answered) as (round, partner)."""
    worked: list[tuple[int, int]] = []
    app = ClientApp(mods=[vanishing(chance=chance, randomness=Randomness(seed), name=_name)])

    def work(message: Message, context: Context) -> Message:
        worked.append((int(message.metadata.group_id), int(context.node_config["partition-id"])))
        return Message(RecordDict(), reply_to=message)

    app.train()(work)
    app.evaluate()(work)
    grid, answered = InlineGrid(app, partners=PARTNERS), []
    for number in range(rounds):
        asked = [Message(RecordDict(), node, kind, group_id=str(number)) for node in range(1, PARTNERS + 1)]
        for answer in grid.send_and_receive(asked):
            if answer.has_error():
                assert answer.error.reason == VANISHED
            else:
                answered.append((number, answer.metadata.src_node_id - 1))
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


def test_the_seed_decides():
    first, again, other = (_run(chance=0.5, seed=seed, rounds=20) for seed in (1, 1, 2))
    assert first == again != other


def test_rounds_and_partners_vanish_apart():
    _, answered = _run(chance=0.5, seed=3, rounds=40)
    by_round = {tuple((n, p) in answered for p in range(PARTNERS)) for n in range(40)}
    by_partner = {tuple((n, p) in answered for n in range(40)) for p in range(PARTNERS)}
    assert len(by_round) > 10
    assert len(by_partner) == PARTNERS


def test_nobody_vanishes_without_chance_or_outside_training():
    assert len(_run(chance=0.0, seed=0, rounds=20)[1]) == 20 * PARTNERS
    assert len(_run(chance=0.9, seed=0, rounds=20, kind="evaluate")[1]) == 20 * PARTNERS
