"""A virtual partner's standing travels in its Flower context: every state comes back as it was."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, RecordDict

from tacit.secagg import client, server
from tacit.secagg.messages import MaskedVector
from tacit.secagg.round import Member, Round, Seen
from tacit.secagg.states import Advertised, Agreed, Done, Masked, Opened, Shared, State
from tacit_client.masking import Standing
from tacit_sim.identity import party
from tacit_sim.standing import keep, recall

REQUEST = bytes(32)


def _context() -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def _travelled(standing: Standing) -> Standing:
    """As after a way to another process."""
    here, there = _context(), _context()
    keep(here, standing)
    there.state = pickle.loads(pickle.dumps(here.state))
    return recall(there)


def _play(job, *, travel: bool) -> tuple[list[State], list[int]]:
    """The states of the first partner over a whole round, and the sum; each state travels before it is used."""
    parties = [party(job, f"partner-{i}") for i in range(3)]
    members = tuple(Member(p.name, p.identity) for p in parties)
    new = Round("run", "0" * 64, 1, 1, "train", members, 3, 4, 1)
    met: list[State] = []

    def way(state: State, who: int) -> State:
        if who == 0:
            met.append(state)
        return _travelled(Standing(state=state)).state if travel else state

    def step(states, bodies):
        return [way(s, i) for i, (s, _) in enumerate(states)], dict(enumerate(b for _, b in states)), bodies

    states, sent, _ = step([client.advertise(new, p, random=os.urandom) for p in parties], None)
    admitted, roster = server.admit(new, sent)
    states, sent, _ = step([client.share(s, roster, random=os.urandom) for s in states], None)
    gathering, inboxes = server.route(admitted, sent, request=REQUEST)
    opened = [way(client.open_shares(s, inboxes[i]), i) for i, s in enumerate(states)]
    masked = []
    for i, state in enumerate(opened):
        vector = MaskedVector(np.arange(4, dtype=np.uint32), np.ones(1, np.uint64))
        after, presence = client.mask(state, vector, request=REQUEST)
        server.gather(gathering, i, vector, presence)
        masked.append(way(after, i))
    listed, survivors = server.listing(gathering)
    states, sent, _ = step([client.approve(s, survivors) for s in masked], None)
    confirmed, quorum = server.confirm(listed, sent)
    _, sent, _ = step([client.unmask(s, quorum) for s in states], None)
    return met, server.finish(confirmed, sent).update.tolist()


def test_every_state_travels_and_the_round_goes_on(make_job):
    met, total = _play(make_job(), travel=True)
    assert [type(state) for state in met] == [Advertised, Shared, Opened, Masked, Agreed, Done]
    assert total == [0, 3, 6, 9] == _play(make_job(), travel=False)[1]
    for state in met:
        standing = Standing(state, Seen({"run": (1, 2, 0)}), 12.5)
        there = _travelled(standing)
        assert (type(there.state), there.seen, there.since) == (type(state), standing.seen, 12.5)


def test_a_new_partner_stands_nowhere():
    assert recall(_context()) == Standing()


def test_the_last_word_counts():
    context = _context()
    for since in (1.0, 2.0):
        keep(context, replace(Standing(), since=since))
    assert recall(context).since == 2.0
    assert len(context.state) == 1


def test_partners_do_not_share_a_standing():
    one, other = _context(), _context()
    keep(one, Standing(since=1.0))
    assert recall(other) == Standing()


def test_another_thing_in_its_place_is_an_error():
    context = _context()
    context.state["tacit.standing"] = ConfigRecord({"pickle": pickle.dumps("no standing")})
    with pytest.raises(TypeError, match=r"^expected a Standing, found str$"):
        recall(context)
