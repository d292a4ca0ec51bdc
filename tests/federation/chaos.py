"""A federation of real processes that are killed while a run goes on, and everything that is noted meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tomli_w
from processes import commands, family, inodes, resident, sockets

from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import Job
from tacit.seal import read_key
from tacit_server import checkpoint
from tacit_server.folder import Folder
from tacit_server.output import CHECKPOINT
from tacit_server.runs import ENDED, Run
from tacit_sim.demo import share_out
from tacit_sim.rehearsal import Rehearsal

SUPERLINK, GATEWAY, SERVERAPP, SERVER = "superlink", "gateway", "serverapp", "server"
_LOOK = 0.05  # seconds between two looks at the run's folder
_AGAIN = 1.0  # seconds after which a process that its machine looks after is started again, as systemd would


@dataclass
class Kill:
    """One process that was killed.

    Attributes:
        what: SUPERLINK, GATEWAY, SERVERAPP, SERVER or a partner's name.
        at: when, seconds of a clock that only goes up.
        round: the last round that was over then.
        still: seconds until the next round was done; None while it is not.
    """

    what: str
    at: float
    round: int
    still: float | None = None


@dataclass
class Chaos:
    """A server and partners on digits, whose processes can be killed.

    Args:
        folder: for everything.
        job: as read from TOML.
        grace: of server.toml.
        together: whether partners are started at once; else one after another.
        say: takes a line for every kill.
    """

    folder: Path
    job: dict[str, Any]
    grace: float = 10.0
    together: bool = True
    say: Callable[[str], None] = print
    kills: list[Kill] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    looks: int = 0
    seen: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.place = self.folder / "federation"
        self.place.mkdir(parents=True)
        self.names = share_out(parse(Job, self.job, where="job.toml"), self.place)
        self.rehearsal = Rehearsal(self.place)
        self.server = Folder(self.rehearsal.server)
        self._over = threading.Event()
        self._watchers: list[threading.Thread] = []
        try:
            self._begin()
        except BaseException:
            self.rehearsal.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for watcher in self._watchers:
            watcher.join()
        for process in self.rehearsal.processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
        self.rehearsal.end()

    def _begin(self) -> None:
        self.rehearsal.init()
        _replace(self.server.config_path, "grace = 10.0", f"grace = {self.grace}")
        self.rehearsal.up()
        for name in self.names:
            self.rehearsal.join(name, data=self.place / f"{name}.npz")
            site = self.place / name / "site.toml"
            _replace(site, "allow_unprotected = false", "allow_unprotected = true")
            _replace(site, 'device = "auto"', 'device = "cpu"')
            _replace(site, "# threads = 4", "threads = 1")
        for name in self.names:
            self.rehearsal.attend(name, wait=not self.together)
        for name in self.names:
            self.rehearsal.wait_for(name, "connected to")

    def submit(self, name: str, **training: Any) -> Run:
        """Submit the job and watch it from now on, one run at a time."""
        job = {k: v for k, v in self.job.items() if k != "simulation"}
        job["training"] = job["training"] | training
        path = self.place / f"{name}.toml"
        path.write_text(tomli_w.dumps(job), encoding="utf-8")
        self.rehearsal.run(
            "tacit-server", "run", str(self.server.path), str(path), "--test", str(self.place / "test.npz"),
            "--name", name,
        )  # fmt: skip
        self.run = Run(self.server.runs / name)
        if not self._watchers:
            self._watchers = [threading.Thread(target=work) for work in (self._watch, self._mend)]
            for watcher in self._watchers:
                watcher.start()
        return self.run

    def finish(self, *, timeout: float) -> dict[str, Any]:
        """Wait until the run is over, and give what result.json holds."""
        self._wait(lambda: self.run.standing.phase in ENDED, timeout=timeout, what="the run to end")
        standing = self.run.standing
        assert standing.phase == "finished", f"{standing.phase}: {standing.message}"
        result: dict[str, Any] = json.loads((self.run.path / "result.json").read_text())
        return result

    def wait_round(self, number: int, *, timeout: float) -> None:
        """Wait until a round is over."""
        self._wait(lambda: len(self.history()) >= number, timeout=timeout, what=f"round {number}")

    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl; none before the first round."""
        try:
            text = (self.run.path / "history.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines()]

    def kill(self, what: str) -> bool:
        """Kill -9 the process that is called so. Returns whether there was one."""
        pid = self.pid(what)
        if pid is None:
            return False
        kill = Kill(what, time.monotonic(), len(self.history()))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills.append(kill)
            return True
        return False

    def pid(self, what: str) -> int | None:
        """The process that is called so, where it lives."""
        if what in self.rehearsal.processes:
            process = self.rehearsal.processes[what]
            return process.pid if process.poll() is None else None
        if what == SERVERAPP:
            return _holder(self.run)
        words = {SUPERLINK: "tacit_server.superlink_child", GATEWAY: "tacit_server.gateway"}[what]
        found = [pid for pid, command in commands() if words in command and str(self.server.path) in command]
        return found[0] if found else None

    def strike(self, kills: Iterable[tuple[str, int, float]], *, timeout: float) -> None:
        """Kill what `schedule` says: after its round and the seconds, or as soon as there is such a process."""
        for what, number, seconds in kills:
            self.wait_round(number, timeout=timeout)
            time.sleep(seconds)
            self._wait(partial(self.kill, what), timeout=timeout, what=f"{what} to be there")

    def listening(self) -> dict[str, set[tuple[str, int]]]:
        """The TCP sockets on which the server's processes and each partner's listen: address and port."""
        places = sockets()
        found = {}
        for name, process in self.rehearsal.processes.items():
            held = {inode for pid in family(process.pid) for inode in inodes(pid)}
            found[name] = {place for inode, place in places.items() if inode in held}
        return found

    def memory(self, what: str) -> int:
        """Resident bytes of a process."""
        pid = self.pid(what)
        assert pid is not None
        return resident(pid)

    def ledgers(self) -> dict[str, Counter[tuple[str, int, int]]]:
        """What each partner was charged for: (run, round, attempt) with the number of times."""
        found = {}
        for name in self.names:
            file = sqlite3.connect(f"file:{self.place / name / 'ledger.db'}?mode=ro", uri=True)
            rows = file.execute("SELECT run, round, attempt FROM entry WHERE kind = 'reserved'").fetchall()
            file.close()
            found[name] = Counter((str(run), int(number), int(attempt)) for run, number, attempt in rows)
        return found

    def check(self, *, rounds: int) -> None:
        """Nothing was counted twice, nothing torn, nothing lost."""
        history, standing = self.history(), self.run.standing
        assert [line["round"] for line in history] == list(range(1, rounds + 1))
        attempts = [line["attempt"] for line in history]
        assert attempts == sorted(attempts)
        assert max(attempts) <= standing.attempts
        self._check_ledgers(history)
        assert not self.torn, self.torn[:3]
        assert self.looks > 50
        assert self.seen == sorted(self.seen), "a checkpoint went back"

    def _check_ledgers(self, history: Sequence[dict[str, Any]]) -> None:
        charged = self.ledgers()
        assert len(charged) == len(self.names)
        assert all(set(found.values()) <= {1} for found in charged.values()), "charged twice for one attempt"
        done = [line for line in history if line["status"] == "done"]
        assert len(done) > len(history) / 2
        for line in done:
            one = self.run.order.run, line["round"], line["attempt"]
            assert sum(one in found for found in charged.values()) >= line["answered"]

    def _watch(self) -> None:
        key = read_key(self.server.seal_key)
        while not self._over.wait(_LOOK):
            self._look(self.run.path / CHECKPOINT, key)
            done = [line["round"] for line in self.history() if line["status"] == "done"]
            for kill in self.kills:
                if kill.still is None and done and done[-1] > kill.round:
                    kill.still = time.monotonic() - kill.at
                    self.say(f"{kill.what:12} killed after round {kill.round:2}; next done after {kill.still:5.1f} s")

    def _look(self, path: Path, key: Any) -> None:
        if not path.exists():
            return
        try:
            self.seen.append(checkpoint.peek(path, key=key).round)
        except BadInput as error:
            self.torn.append(error.message)
        self.looks += 1

    def _mend(self) -> None:
        """Start the processes again that systemd would, and no other."""
        while not self._over.wait(_LOOK):
            for name in [SERVER, *self.names]:
                if self.rehearsal.processes[name].poll() is not None and not self._over.wait(_AGAIN):
                    words = ("tacit-server", "up") if name == SERVER else ("tacit-client", "run")
                    self.rehearsal.start(name, *words, str(self.place / name))

    def _wait(self, met: Callable[[], bool], *, timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not met():
            standing = self.run.standing
            if time.monotonic() > deadline or (standing.phase in ENDED and not met()):
                raise AssertionError(f"expected {what}, found {standing} with {len(self.history())} rounds")
            time.sleep(_LOOK)


def schedule(kinds: Iterable[str], *, rounds: int, seed: int) -> list[tuple[str, int, float]]:
    """For each kill its target, the round after which it comes, and seconds more: spread over the run at random."""
    draw = random.Random(seed)
    order = list(kinds)
    draw.shuffle(order)
    return [(what, place * rounds // len(order), draw.uniform(0.0, 3.0)) for place, what in enumerate(order)]


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"expected {old} once in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def _holder(run: Run) -> int | None:
    """The process that holds the run's lock."""
    if not run.live():
        return None
    with suppress(OSError, ValueError):
        return int(run.lock.read_text())
    return None
