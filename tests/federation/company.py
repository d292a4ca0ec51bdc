"""A partner in a process of its own among two in this one, in whole secure rounds and blocks until it is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from offices import NAMES, Federation
from siege import Siege
from victim import Victim

from tacit.secagg import block, server
from tacit.secagg.round import Round
from tacit.step import STEP, Step
from tacit.wire import ADVERTISE, SHARE, UNMASK, Letter, Parcel, Refusal, Update

__all__ = ["BlockCompany", "Company"]


class _Killed(Exception):
    """The victim came to its end in the middle of a round."""


@dataclass
class Company(Federation):
    """Two offices in this process, and the victim in its own.

    Attributes:
        run: id of the run.
        most: rounds that it has.
        victim: the third.
    """

    run: str = ""
    most: int = 1
    victim: Victim | None = None

    def start(self) -> None:
        super().start()
        self.offices.pop("p0").close()

    def send(self, kind: str, parcel: Parcel, *, to: str) -> Parcel:
        if to != "p0" or self.victim is None:
            return super().send(kind, parcel, to=to)
        reply = self.victim.ask(kind, parcel)
        if reply is None:
            raise _Killed
        assert reply.scalars["kind"] != "refusal", Refusal.unpack(reply).reason
        return reply

    def rounds(self, victim: Victim, attempt: int, after: Callable[[], None]) -> list[float]:
        """Secure rounds until the victim's end. Returns the seconds of each that came to a sum."""
        self.victim, seconds = victim, []
        for number in range(1, self.most + 1):
            began = time.monotonic()
            try:
                self.whole(replace(self.open(number=number, run=self.run), attempt=attempt))
            except _Killed:
                return seconds
            seconds.append(time.monotonic() - began)
            if len(seconds) == 1:
                after()
        raise AssertionError("the rounds came to an end before the victim did")

    def measure(self, siege: Siege) -> None:
        """The first victim, by which the others are aimed at."""
        began = time.monotonic()
        with Victim(siege.folder.path) as victim:
            assert victim.wait()
            siege.opening = time.monotonic() - began
            timed = self.rounds(victim, 1, lambda: victim.kill_in(1.5))
        siege.first, siege.later = timed[0], min(timed[1:])
        siege.count(victim)

    def besiege(self, siege: Siege, *, kills: int) -> None:
        """One victim after another."""
        for kill in range(kills):
            with Victim(siege.folder.path) as victim:
                after = siege.aim(victim, kill)
                if victim.opened is not None or victim.wait():
                    self.rounds(victim, 2 + kill, after)
            siege.count(victim)
        siege.report(kills + 1)


class BlockCompany(Company):
    """The same where a round is a block of steps."""

    def whole(self, new: Round) -> server.Sum:
        """A block from end to end. Returns the sum of its last step."""
        new, steps = replace(new, counters=0), self.job.training.local_steps
        admitted, roster = block.admit(new, self.letters(ADVERTISE, self.invite(new)), steps=steps)
        routed, inboxes = block.route(admitted, self.letters(SHARE, Letter("server", roster).pack()))
        for number in range(1, steps + 1):
            total = self._step(new, routed, number, inboxes if number == 1 else {})
        return total

    def _step(self, new: Round, routed: block.Routed, number: int, inboxes: dict[int, bytes]) -> server.Sum:
        asked = Step(new.run, new.number, new.attempt, number, self.model)
        gathering = block.begin(routed, number, request=asked.request(self.job))
        for i, name in enumerate(NAMES):
            update = Update.unpack(self.send(STEP, replace(asked, inbox=inboxes.get(i)).pack(), to=name))
            server.gather(gathering, i, update.vector, update.presence)
        ended = block.complete(gathering)
        assert ended is not None
        confirmed, message = ended
        return server.finish(confirmed, self.letters(UNMASK, Letter("server", message).pack()))
