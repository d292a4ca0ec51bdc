"""The partner's place in secure aggregation: what it refuses before it works, and what it releases once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from circle import NAMES, RUN, Circle, D, make_party, open_round

from tacit.errors import BadInput
from tacit.job import Job
from tacit.metrics import Counters
from tacit.privacy.mechanism import plan
from tacit.privacy.randomness import Randomness
from tacit.quantize import Ring
from tacit.secagg import server
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.keys import Secret
from tacit.secagg.messages import MaskedVector
from tacit.secagg.states import Advertised, Done, Masked, Shared
from tacit.tasks.task import Encoded
from tacit.wire import TRAINING_COUNTERS, Ask, Invite, Letter
from tacit_client import masking
from tacit_client.ledger import DataSet, Ledger
from tacit_client.masking import LIFE, Standing
from tacit_client.partner import Site, judge, take_part
from tacit_client.train import Shard

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)

N = 64
CLASSES = 2
DELTA = np.linspace(-0.5, 0.5, D, dtype=np.float32)


@pytest.fixture
def job(make_job) -> Job:
    return make_job("aggregation.secure=true")


@pytest.fixture
def circle(job) -> Circle:
    return Circle(job)


@pytest.fixture
def site(tmp_path) -> Callable[[str], Site]:
    data = Encoded((torch.zeros(N, 1),), torch.zeros(N, dtype=torch.long))

    def make(name: str) -> Site:
        shard = Shard(data, torch.arange(N))
        return Site(
            name, shard, shard, Ledger(tmp_path / "ledger.db", partner=name, key=KEY, dataset=DATA), Randomness(3)
        )

    return make


class Trainer:
    """Answers without training, and counts how often it was asked to."""

    def __init__(self, counters: Counters | None = None) -> None:
        self.asked = 0
        self._counters = counters or Counters(np.array([[5, 1], [2, 4]]), 77)

    def train(self, *args: Any, **kwargs: Any) -> np.ndarray:
        self.asked += 1
        return DELTA

    def evaluate(self, *args: Any, **kwargs: Any) -> Counters:
        self.asked += 1
        return self._counters


@contextmanager
def _aborts(stage: Stage, reason: Reason) -> Iterator[None]:
    with pytest.raises(Abort, match=f"^secure aggregation, stage {stage.value}: expected .* found ") as caught:
        yield
    assert (caught.value.stage, caught.value.reason) == (stage, reason)


def test_a_whole_round_gives_the_plain_sum_and_ends_in_nothing(circle, site):
    """Guarantee: what leaves is masked, and the sum of what leaves is the sum of what was encoded."""
    gathering, asks = circle.begin(open_round(circle.job))
    plain = np.zeros(D, np.uint32)
    for i, name in enumerate(NAMES):
        circle.standings[name], update = take_part(asks[name], site(name), Trainer(), circle.standings[name])
        rounding = Randomness(3).stream("rounding", name, 1, 1)
        own, _ = Ring(norm=100.0, partners=3).encode(DELTA, weight=1.0, rounding=rounding)
        assert not (own == update.vector.update).any()  # masked: one of 5 * 3 entries equal has a chance of 2^-28
        assert update.vector.counters[0] != 1
        plain += own
        server.gather(gathering, i, update.vector, update.presence)
    total = circle.finish(gathering)
    np.testing.assert_array_equal(total.update, plain)
    assert total.counters[:2].tolist() == [3, 0]
    assert [type(standing.state) for standing in circle.standings.values()] == [Done] * 3


def test_scores_are_summed_the_same_way(circle, site):
    new = open_round(circle.job, purpose="evaluate", update=0, counters=Counters.length(CLASSES))
    gathering, asks = circle.begin(new)
    for i, name in enumerate(NAMES):
        standing, answer = judge(asks[name], site(name), Trainer(), circle.standings[name], classes=CLASSES)
        circle.standings[name] = standing
        assert answer.vector.counters[0] != 5
        server.gather(gathering, i, answer.vector, answer.presence)
    assert circle.finish(gathering).counters.tolist() == [15, 3, 6, 12, 231, 27, 9, 0]
    assert site("p0").ledger.events() == ()


def _advertise(circle: Circle, new: Any, *, standing: Standing, job: Job | None = None) -> Standing:
    return masking.advertise(Invite(job or circle.job, new.encode()), standing, party=circle.parties["p0"])[0]


def test_a_round_is_taken_part_in_once_and_only_upwards(circle):
    """Guarantee: once, and only in rising order of attempt, round and purpose; another run counts for itself."""
    standing = _advertise(circle, open_round(circle.job, number=5, attempt=2), standing=Standing())
    refused = (
        {"number": 5, "attempt": 2},
        {"number": 5, "attempt": 2, "threshold": 3, "update": D + 1},  # the same round, otherwise
        {"number": 4, "attempt": 2},
        {"number": 9, "attempt": 1},
        {"number": 5, "attempt": 1},
    )
    for changes in refused:
        new = open_round(circle.job, **changes)
        with _aborts(Stage.ADVERTISE, Reason.REPEATED):
            _advertise(circle, new, standing=standing)
    evaluation = {"purpose": "evaluate", "update": 0}
    allowed = (
        {"number": 5, "attempt": 2, **evaluation},
        {"number": 6, "attempt": 2},
        {"number": 1, "attempt": 3},
        {"run": "other"},
    )
    for changes in allowed:
        assert isinstance(_advertise(circle, open_round(circle.job, **changes), standing=standing).state, Advertised)
    after = _advertise(circle, open_round(circle.job, number=5, attempt=2, **evaluation), standing=standing)
    again = open_round(circle.job, number=5, attempt=2)
    with _aborts(Stage.ADVERTISE, Reason.REPEATED):
        _advertise(circle, again, standing=after)
    other = _advertise(circle, open_round(circle.job, run="other"), standing=standing)
    with _aborts(Stage.ADVERTISE, Reason.REPEATED):
        _advertise(circle, again, standing=other)


def test_a_round_is_remembered_after_it_was_left(circle):
    new = open_round(circle.job)
    left = _advertise(circle, new, standing=Standing()).left()
    assert left.state is None
    with _aborts(Stage.ADVERTISE, Reason.REPEATED):
        _advertise(circle, new, standing=left)


def test_a_later_round_begins_with_fresh_keys(circle):
    first = _advertise(circle, open_round(circle.job), standing=Standing())
    second = _advertise(circle, open_round(circle.job, number=2), standing=first)
    one, other = first.state.advert, second.state.advert
    assert len({one.share_key, one.mask_key, other.share_key, other.mask_key}) == 4


def test_the_invitation_is_for_the_job_that_comes_with_it(circle, make_job):
    clear, other = make_job(), make_job("aggregation.secure=true", "training.rounds=9")
    for job, of in ((other, circle.job), (circle.job, other), (clear, clear), (clear, circle.job)):
        new = open_round(of)
        with _aborts(Stage.ADVERTISE, Reason.REQUEST):
            _advertise(circle, new, standing=Standing(), job=job)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"", lambda b: b"\2" + b[1:]])
def test_bytes_that_are_no_round_are_refused(circle, change):
    invite = Invite(circle.job, change(open_round(circle.job).encode()))
    with _aborts(Stage.ADVERTISE, Reason.MALFORMED):
        masking.advertise(invite, Standing(), party=circle.parties["p0"])


def test_the_partners_own_rules_hold(circle):
    new = open_round(circle.job)
    circle.parties["p0"] = make_party("p0", min_cohort=4)
    with _aborts(Stage.ADVERTISE, Reason.COHORT):
        _advertise(circle, new, standing=Standing())


CHANGED: dict[str, tuple[Reason, Callable[[Ask, dict[str, Ask]], Ask]]] = {
    "run": (Reason.REQUEST, lambda ask, _: replace(ask, run="other")),
    "round": (Reason.REQUEST, lambda ask, _: replace(ask, round=2)),
    "attempt": (Reason.REQUEST, lambda ask, _: replace(ask, attempt=2)),
    "smaller cohort": (Reason.REQUEST, lambda ask, _: replace(ask, cohort=2)),
    "larger cohort": (Reason.REQUEST, lambda ask, _: replace(ask, cohort=4)),
    "longer model": (Reason.REQUEST, lambda ask, _: replace(ask, vector=np.zeros(D + 1, np.float32))),
    "empty model": (Reason.REQUEST, lambda ask, _: replace(ask, vector=np.zeros(0, np.float32))),
    "no shares": (Reason.REQUEST, lambda ask, _: replace(ask, inbox=None)),
    "another's shares": (Reason.SHARE, lambda ask, asks: replace(ask, inbox=asks["p1"].inbox)),
    "a share that does not open": (Reason.SHARE, lambda ask, _: replace(ask, inbox=_flipped(ask.inbox))),
    "shares cut short": (Reason.MALFORMED, lambda ask, _: replace(ask, inbox=ask.inbox[:-1])),
    "shares of nobody": (Reason.MALFORMED, lambda ask, _: replace(ask, inbox=b"")),
}


def _flipped(inbox: bytes) -> bytes:
    return inbox[:-1] + bytes([inbox[-1] ^ 1])


def _refuses_untouched(ask: Ask, standing: Standing, site: Site, *, reason: Reason) -> None:
    """Nothing is trained and nothing charged."""
    trainer = Trainer()
    with _aborts(Stage.MASK, reason):
        take_part(ask, site, trainer, standing)
    assert trainer.asked == 0
    assert site.ledger.events() == ()


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_asked_is_what_was_announced(circle, site, what):
    """Guarantee: looked at before an example is touched or the ledger charged."""
    _, asks = circle.begin(open_round(circle.job))
    reason, change = CHANGED[what]
    _refuses_untouched(change(asks["p0"], asks), circle.standings["p0"], site("p0"), reason=reason)


def test_the_job_may_not_change_after_the_invitation(circle, site, make_job):
    _, asks = circle.begin(open_round(circle.job))
    weaker = make_job("aggregation.secure=true", "privacy.noise_multiplier=0.2")
    ask = replace(asks["p0"], job=weaker)
    _refuses_untouched(ask, circle.standings["p0"], site("p0"), reason=Reason.REQUEST)
    quicker = make_job("aggregation.secure=true", "performance.max_physical_batch=7")  # nothing that was agreed to
    take_part(replace(asks["p0"], job=quicker), site("p0"), Trainer(), circle.standings["p0"])


def test_no_job_in_clear_follows_a_secure_one_in_the_same_run(circle, site, make_job):
    """Guarantee: nor is a clear job answered while a secure round of its run is under way, or after it."""
    clear = make_job()
    _, asks = circle.begin(open_round(circle.job))
    for standing in (circle.standings["p0"], circle.standings["p0"].left()):
        for inbox in (asks["p0"].inbox, None):
            ask = replace(asks["p0"], job=clear, inbox=inbox)
            _refuses_untouched(ask, standing, site("p0"), reason=Reason.REQUEST)
    trainer = Trainer()
    ask = replace(asks["p0"], job=clear)
    with _aborts(Stage.MASK, Reason.REQUEST):
        judge(ask, site("p0"), trainer, circle.standings["p0"], classes=CLASSES)
    assert trainer.asked == 0
    other_run = replace(asks["p0"], job=clear, run="other", inbox=None)
    assert take_part(other_run, site("p0"), trainer, circle.standings["p0"])[1].vector.counters[0] == 1


@pytest.mark.parametrize("counters", [TRAINING_COUNTERS - 1, TRAINING_COUNTERS + 1])
def test_a_round_of_training_has_three_counters(circle, site, counters):
    _, asks = circle.begin(open_round(circle.job, counters=counters))
    _refuses_untouched(asks["p0"], circle.standings["p0"], site("p0"), reason=Reason.REQUEST)


def test_a_round_for_scores_trains_nobody_and_the_other_way_round(circle, site):
    scores = {"purpose": "evaluate", "update": 0, "counters": Counters.length(CLASSES)}
    trainer = Trainer()
    _, asks = circle.begin(open_round(circle.job))
    with _aborts(Stage.MASK, Reason.REQUEST):
        judge(asks["p0"], site("p0"), trainer, circle.standings["p0"], classes=CLASSES)
    _, asks = circle.begin(open_round(circle.job, **scores))
    _refuses_untouched(asks["p0"], circle.standings["p0"], site("p0"), reason=Reason.REQUEST)
    with _aborts(Stage.MASK, Reason.REQUEST):
        judge(asks["p0"], site("p0"), trainer, circle.standings["p0"], classes=3)
    assert trainer.asked == 0
    judge(asks["p0"], site("p0"), trainer, circle.standings["p0"], classes=CLASSES)
    assert trainer.asked == 1


def test_a_round_for_scores_holds_no_update(circle, site):
    scores = {"purpose": "evaluate", "update": D, "counters": Counters.length(CLASSES)}
    _, asks = circle.begin(open_round(circle.job, **scores))
    trainer = Trainer()
    with _aborts(Stage.MASK, Reason.REQUEST):
        judge(asks["p0"], site("p0"), trainer, circle.standings["p0"], classes=CLASSES)
    assert trainer.asked == 0


def test_a_secure_job_without_the_stages_before_is_refused(circle, site):
    ask = circle.ask(open_round(circle.job))
    _refuses_untouched(ask, Standing(), site("p0"), reason=Reason.ORDER)
    circle.advertise(open_round(circle.job))
    _refuses_untouched(ask, circle.standings["p0"], site("p0"), reason=Reason.ORDER)


def test_an_update_is_released_once(circle, site):
    """Guarantee: a second question in the same round is refused, and nothing more is charged."""
    _, asks = circle.begin(open_round(circle.job))
    place = site("p0")
    standing, _ = take_part(asks["p0"], place, Trainer(), circle.standings["p0"])
    assert isinstance(standing.state, Masked)
    trainer, event = Trainer(), plan(circle.job, units=place.units).event()
    for ask in (asks["p0"], replace(asks["p0"], inbox=asks["p1"].inbox)):
        with _aborts(Stage.MASK, Reason.ORDER):
            take_part(ask, place, trainer, standing)
    assert (trainer.asked, place.ledger.events()) == (0, (event,))


def test_training_that_fails_leaves_no_way_to_ask_again(circle, site, monkeypatch):
    """What `tacit_client.app` does after an error: out of the round, with the round remembered."""
    _, asks = circle.begin(open_round(circle.job))
    left = circle.standings["p0"].left()
    _refuses_untouched(asks["p0"], left, site("p0"), reason=Reason.ORDER)
    with _aborts(Stage.ADVERTISE, Reason.REPEATED):
        _advertise(circle, open_round(circle.job), standing=left)
    next_one = _advertise(circle, open_round(circle.job, number=2), standing=left)
    assert isinstance(next_one.state, Advertised)


@pytest.mark.parametrize(("passed", "works"), [(0.0, True), (LIFE, True), (LIFE + 1, False)])
def test_a_round_is_forgotten_after_its_life(circle, monkeypatch, passed, works):
    now = [1000.0]
    monkeypatch.setattr(masking, "time", SimpleNamespace(monotonic=lambda: now[0]))
    _, roster = circle.advertise(open_round(circle.job))
    now[0] += passed
    with nullcontext() if works else _aborts(Stage.SHARE, Reason.ORDER):
        standing, _ = masking.share(roster, circle.standings["p0"], party=circle.parties["p0"])
        assert isinstance(standing.state, Shared)


@pytest.mark.parametrize("place", range(3))
def test_a_counter_that_could_wrap_the_sum_is_refused_without_telling_it(circle, place):
    """Guarantee: what the server reads of it is the bound."""
    _, asks = circle.begin(open_round(circle.job))
    opened = masking.enter(asks["p0"], circle.standings["p0"], purpose="train", counters=TRAINING_COUNTERS)
    counters = np.zeros(TRAINING_COUNTERS, np.uint64)
    counters[place] = 2**40
    vector = MaskedVector(np.zeros(D, np.uint32), counters)
    for way in (opened, None):
        with pytest.raises(BadInput, match=r"^expected counters below 1099511627776, found a larger one$"):
            masking.cover(way, asks["p0"], vector, circle.standings["p0"])
    counters[place] -= 1
    standing, presence = masking.cover(None, asks["p0"], vector, circle.standings["p0"])
    assert (presence, vector.counters.max()) == (b"", 2**40 - 1)
    masking.cover(opened, asks["p0"], vector, standing)
    assert vector.update.any()


def test_stages_out_of_order_are_refused(circle):
    party = circle.parties["p0"]
    admitted, roster = circle.advertise(open_round(circle.job))
    advertised = circle.standings["p0"]
    circle.share(admitted, roster, circle.ask(open_round(circle.job)))
    shared = circle.standings["p0"]
    tried = 0
    for stage, step, allowed in (
        (Stage.SHARE, masking.share, Advertised),
        (Stage.AGREE, masking.approve, Masked),
        (Stage.UNMASK, masking.unmask, None),
    ):
        for standing in (Standing(), advertised, shared):
            if allowed and isinstance(standing.state, allowed):
                continue
            with _aborts(stage, Reason.ORDER):
                step(roster, standing, party=party)
            tried += 1
    assert tried == 8


def test_a_standing_shows_nothing_of_the_round(circle):
    """Guarantee: keys do not get into logs by way of it."""
    circle.advertise(open_round(circle.job))
    standing = circle.standings["p0"]
    secrets = (standing.state.share_key, standing.state.mask_key, standing.state.party.key)
    for shown in (repr(standing), str(standing), f"{standing!r}", repr(circle.parties["p0"]), repr(standing.state)):
        for secret in secrets:
            assert isinstance(secret, Secret)
            assert bytes(secret).hex() not in shown
            assert repr(bytes(secret))[2:-1] not in shown
        assert RUN not in shown


def test_letters_name_their_sender(circle):
    _, letter = masking.advertise(
        Invite(circle.job, open_round(circle.job).encode()), Standing(), party=circle.parties["p2"]
    )
    assert isinstance(letter, Letter)
    assert letter.name == "p2"
