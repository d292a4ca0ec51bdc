"""Kills of one partner's process, and what it had released and charged after each."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from victim import Victim

from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event, merge
from tacit.step import STEP
from tacit.wire import TRAIN
from tacit_client.audit import Audit
from tacit_client.holding import dataset, ledger_key
from tacit_client.ledger import Ledger
from tacit_client.site import Folder

__all__ = ["BlockSiege", "Siege"]

DELTA = 1e-5


@dataclass
class Siege:
    """Kills of one partner, and what it had released and charged after each.

    Attributes:
        folder: the partner's.
        event: what a row of the ledger says that a round releases.
        drawn: when to kill.
        answers: in which all of it has left.
        opening, first, later: seconds that it takes to open, to answer a first round, and another.
        left: answers that left, in the whole or in part, by round and attempt.
        released: all of them.
        charged: answers that the ledger counts.
    """

    kind: ClassVar[str] = TRAIN
    noted: ClassVar[str] = "update-released"

    folder: Folder
    event: Event
    drawn: random.Random
    answers: int = 1
    opening: float = 0.0
    first: float = 0.0
    later: float = 0.0
    left: Counter[tuple[int, int]] = field(default_factory=Counter)
    released: int = 0
    charged: int = 0
    unconfirmed: int = 0
    fell: Counter[str] = field(default_factory=Counter)
    dearer: list[float] = field(default_factory=list)

    def aim(self, victim: Victim, kill: int) -> Callable[[], None]:
        """Let `victim` be killed at a moment drawn at random. Returns what to call after its first round."""
        draw = self.drawn.uniform
        match kill % 5:
            case 0:
                victim.kill_in(draw(0, self.opening))
            case 1 if victim.wait():
                victim.kill_in(draw(0, self.first))
            case 2 if victim.wait():
                victim.kill_after_row(draw(0, self.later))
            case 3 if victim.wait():
                return lambda: victim.kill_in(draw(0, 3 * self.later))
            case 4 if victim.wait():
                return lambda: victim.kill_after_row(draw(0, self.later / 2))
        return lambda: None

    def count(self, victim: Victim) -> None:
        """Look at what the end of `victim` left: ledger and log as whole as they ever were, and nothing uncounted."""
        assert victim.exitcode == -signal.SIGKILL
        self.left += Counter((each.round, each.attempt) for each in victim.left if each.kind == self.kind)
        self.released = self.left.total()
        with closing(self._copied()) as ledger:  # every row verified; the next process mends the original itself
            charged = ledger.events()
            (pending,) = [spell.unconfirmed for spell in ledger._book.tally().spells()] or [0]
        assert set(charged) <= {self.event}
        self.charged = len(charged) * self.answers
        spent, left = self._epsilon(self.charged), self._epsilon(self.released)
        assert spent >= left
        assert self.charged >= self.released
        assert charged == () or spent > 0
        paid = self._paid()
        assert all(count <= self.answers * paid[number] for number, count in self.left.items())
        self._place(victim, pending)
        if spent > left:
            self.dearer.append(spent - left)
        self._check_log()

    def _place(self, victim: Victim, pending: int) -> None:
        """Where this kill fell, from what is there."""
        where, lost = "opening" if victim.opened is None else "before or after", self.charged - self.released
        if pending > self.unconfirmed:
            where = "reserved, not confirmed"
        elif lost - self.fell["reserved, not confirmed"] - self.fell["confirmed, kept"]:
            where = "confirmed, kept"
        self.fell[where] += 1
        self.unconfirmed = pending
        between = self.fell["reserved, not confirmed"], self.fell["confirmed, kept"]
        assert (pending, lost) == (between[0], sum(between))

    def _epsilon(self, answers: int) -> float:
        left = self.event.model_copy(update={"steps": self.event.steps // self.answers})
        return epsilon(merge([left] * answers), delta=DELTA) if answers else 0.0

    def _copied(self) -> Ledger:
        copy = self.folder.path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for end in ("", "-wal"):
            if (place := Path(f"{self.folder.ledger}{end}")).exists():
                shutil.copy(place, copy)
        name, data = self.folder.config.name, dataset(self.folder)
        return Ledger(copy / self.folder.ledger.name, partner=name, key=ledger_key(self.folder), dataset=data)

    def _paid(self) -> Counter[tuple[int, int]]:
        """Rows of the copied ledger by round and attempt: what one was charged makes up for no other."""
        with closing(sqlite3.connect(self.folder.path / "copy" / self.folder.ledger.name)) as file:
            return Counter(file.execute("SELECT round, attempt FROM entry WHERE kind = 'reserved'").fetchall())

    def _check_log(self) -> None:
        """No line is broken; a last one that was torn is the next process's to mend."""
        copy = self.folder.path / "copy" / "audit.log"
        whole, _, _ = self.folder.audit.read_bytes().rpartition(b"\n")
        copy.write_bytes(whole + b"\n" if whole else b"")
        entries = Audit(copy, key=Audit.of(self.folder)._key).entries()
        assert sum(entry.event == self.noted for entry in entries) >= self.released

    def report(self, kills: int) -> None:
        """The figures."""
        spent, left = self._epsilon(self.charged), self._epsilon(self.released)
        print(
            f"\n{kills} kills: {dict(self.fell)}; {self.released} answers left, {self.charged - self.released} more "
            f"charged; epsilon {left:.4f} left, {spent:.4f} in the ledger; opening {self.opening:.3f} s, first round "
            f"{self.first:.3f} s, later {self.later:.3f} s"
        )


class BlockSiege(Siege):
    """The same where a row of the ledger is a block, of which each answer releases a step."""

    kind = STEP
    noted = "step-released"

    def _place(self, victim: Victim, pending: int) -> None:
        where = "opening" if victim.opened is None else "before or after"
        self.fell["within a block" if pending > self.unconfirmed else where] += 1
        assert pending >= self.unconfirmed
        self.unconfirmed = pending
