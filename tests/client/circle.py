"""Partners of one secure round and the server between them, driven stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tacit.job import Job
from tacit.privacy.randomness import Randomness
from tacit.secagg import server
from tacit.secagg.graph import default_threshold
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit.secagg.round import Member, Party, Round, Rules
from tacit.wire import TRAINING_COUNTERS, Ask, Invite, Letter
from tacit_client import masking
from tacit_client.masking import Standing

__all__ = ["RUN", "Circle", "D", "make_party", "open_round"]

D = 5
RUN = "run"
NAMES = ("p0", "p1", "p2")


def make_party(name: str, *, min_cohort: int = 3) -> Party:
    """A partner that has accepted all of `NAMES`."""
    peers = {peer: PublicKey(identity_of(_key(peer))) for peer in NAMES}
    return Party(name, _key(name), Rules(peers, min_cohort))


def open_round(job: Job, **changes: Any) -> Round:
    """The first round of `job` for `NAMES`, or another."""
    members = tuple(Member(name, make_party(name).identity) for name in NAMES)
    usual = Round(RUN, job.hash(), 1, 1, "train", members, default_threshold(3), D, TRAINING_COUNTERS)
    return replace(usual, **changes)


@dataclass
class Circle:
    """Where each of `NAMES` stands in a round."""

    job: Job
    standings: dict[str, Standing] = field(default_factory=lambda: dict.fromkeys(NAMES, Standing()))
    parties: dict[str, Party] = field(default_factory=lambda: {name: make_party(name) for name in NAMES})

    def ask(self, new: Round, *, vector: np.ndarray | None = None) -> Ask:
        vector = np.zeros(D, np.float32) if vector is None else vector
        return Ask(self.job, new.run, new.number, new.attempt, len(new.members), vector)

    def advertise(self, new: Round) -> tuple[server.Admitted, Letter]:
        """Stage 0 of everybody; gives the letter that opens stage 1."""
        sent = {}
        for i, name in enumerate(NAMES):
            invite, party = Invite(self.job, new.encode()), self.parties[name]
            self.standings[name], letter = masking.advertise(invite, self.standings[name], party=party)
            sent[i] = letter.body
        admitted, roster = server.admit(new, sent)
        return admitted, Letter("server", roster)

    def share(self, admitted: server.Admitted, roster: Letter, ask: Ask) -> tuple[server.Gathering, dict[str, Ask]]:
        """Stage 1 of everybody; gives what each is asked in stage 2."""
        sent = {}
        for i, name in enumerate(NAMES):
            self.standings[name], letter = masking.share(roster, self.standings[name], party=self.parties[name])
            sent[i] = letter.body
        gathering, inboxes = server.route(admitted, sent, request=ask.request())
        return gathering, {NAMES[i]: replace(ask, inbox=inbox) for i, inbox in inboxes.items()}

    def begin(self, new: Round, *, vector: np.ndarray | None = None) -> tuple[server.Gathering, dict[str, Ask]]:
        """Stages 0 and 1."""
        return self.share(*self.advertise(new), self.ask(new, vector=vector))

    def finish(self, gathering: server.Gathering) -> server.Sum:
        """Stages 3 and 4 of everybody."""
        listed, survivors = server.listing(gathering)
        agreed, reveals = {}, {}
        for i in listed.survivors:
            name = NAMES[i]
            letter, party = Letter("server", survivors), self.parties[name]
            self.standings[name], answer = masking.approve(letter, self.standings[name], party=party)
            agreed[i] = answer.body
        confirmed, quorum = server.confirm(listed, agreed)
        for i in confirmed.agreed:
            name = NAMES[i]
            letter, party = Letter("server", quorum), self.parties[name]
            self.standings[name], answer = masking.unmask(letter, self.standings[name], party=party)
            reveals[i] = answer.body
        return server.finish(confirmed, reveals)


def _key(name: str) -> Secret:
    return Secret(Randomness(1).stream("identity", name).words(4).tobytes())
