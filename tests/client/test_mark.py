"""Marks: an older ledger or audit log in place of a newer one is noticed, and nobody else can make one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tacit.errors import BadInput
from tacit.privacy.events import Event
from tacit.secagg.keys import Secret
from tacit_client.audit import START, Audit
from tacit_client.ledger import DataSet, Ledger, Release
from tacit_client.mark import Behind, Mark, Marks, check_log, kept, key_of

SECRET = Secret(bytes(range(32)))
EVENT = Event(kind="dp-sgd", sampling_rate=0.1, noise_multiplier=1.0, steps=3)


@dataclass
class Desk:
    """A ledger, an audit log and their marks in one folder."""

    path: Path

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(self.path / "ledger.db", partner="p", key=SECRET, dataset=DataSet("d" * 64))
        self.audit = Audit(self.path / "audit.log", key=SECRET)
        self.marks = Marks(self.path / "mark", secret=SECRET, ledger=self.ledger, audit=self.audit)

    def work(self, number: int) -> bytes:
        """A round, and the mark that leaves with its answer."""
        self.ledger.reserve(Release("run", number, 1, EVENT))
        self.audit.write("update-released", {"round": number})
        return self.marks.now()

    def copy(self, name: str) -> Path:
        self.ledger.close()
        copied = shutil.copy(self.path / name, self.path / f"{name}.copy")
        self.open()
        return Path(copied)

    def put_back(self, name: str) -> None:
        self.ledger.close()
        for beside in self.path.glob(f"{name}-*"):
            beside.unlink()
        shutil.copy(self.path / f"{name}.copy", self.path / name)
        self.open()


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


def test_what_is_there_agrees_with_every_mark_so_far(desk):
    marks = [desk.work(i) for i in range(1, 5)]
    assert len(set(marks)) == 4
    for mark in marks:
        assert len(mark) == 123
        desk.marks.check(mark)
    desk.marks.check_own()
    desk.marks.check(b"")


def test_nothing_kept_nothing_compared(desk):
    desk.marks.check_own()
    assert kept(desk.path / "mark", key=key_of(SECRET)) is None


def test_an_older_ledger_put_back_is_noticed(desk):
    """Guarantee: of the last mark, at this machine and at the server, one that is left is enough."""
    first = desk.work(1)
    desk.copy("ledger.db")
    second = desk.work(2)
    desk.put_back("ledger.db")
    desk.marks.check(first)
    for check in (desk.marks.check_own, lambda: desk.marks.check(second)):
        with pytest.raises(Behind, match=r"^expected the ledger .* of 3 rows or more, found an older .* of 2$"):
            check()


def test_the_servers_mark_is_enough_where_the_own_one_was_put_back_too(desk):
    desk.work(1)
    desk.copy("ledger.db")
    own = desk.copy("mark")
    second = desk.work(2)
    desk.put_back("ledger.db")
    desk.put_back("mark")
    desk.marks.check_own()
    with pytest.raises(Behind):
        desk.marks.check(second)
    with pytest.raises(Behind):  # remembered: the next start needs no server
        desk.marks.check_own()
    assert own.read_bytes() != (desk.path / "mark").read_bytes()


def test_a_fork_is_noticed(desk):
    """As long as the one before, or longer, but not the same."""
    desk.work(1)
    desk.copy("ledger.db")
    second = desk.work(2)
    desk.put_back("ledger.db")
    for i in (7, 8, 9):
        desk.ledger.reserve(Release("other", i, 1, EVENT))
    with pytest.raises(Behind, match="another one of 5"):
        desk.marks.check(second)


def test_a_shortened_audit_log_is_noticed_and_can_be_renewed(desk):
    for i in range(1, 4):
        mark = desk.work(i)
    lines = desk.audit.path.read_bytes().splitlines(keepends=True)
    desk.audit.path.write_bytes(b"".join(lines[:-1]))
    desk.audit.entries()  # by itself it is whole
    with pytest.raises(Behind, match="of 3 lines or more, found an older or another one of 2"):
        desk.marks.check(mark)
    covered = kept(desk.path / "mark", key=key_of(SECRET))
    desk.audit.renew(covered=covered.line)
    desk.marks.check(mark)
    check_log(covered, desk.audit)
    later = desk.work(4)
    for each in (mark, later):
        desk.marks.check(each)


def test_a_renewal_does_not_forgive_what_comes_after_it(desk):
    desk.work(1)
    desk.audit.renew(covered=1000)
    later = [desk.work(i) for i in (2, 3)][-1]
    lines = desk.audit.path.read_bytes().splitlines(keepends=True)
    desk.audit.path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(Behind):
        desk.marks.check(later)


def test_a_mark_of_another_key_or_a_changed_one_is_none(desk):
    mark = desk.work(1)
    foreign = Mark(1, START, 1, START).sign(Secret(bytes(32)))
    changed = [bytes([*mark[:i], mark[i] ^ 1, *mark[i + 1 :]]) for i in range(len(mark))]
    for wrong in (foreign, mark[:-1], mark + b"\0", b"x", bytes(123), *changed):
        with pytest.raises(BadInput, match=r"^expected a mark that this partner made, found another$") as caught:
            desk.marks.check(wrong)
        assert not isinstance(caught.value, Behind)
    assert len(changed) == 123


def test_a_mark_is_not_readable_as_another_value(desk):
    """The HMAC covers a domain and a version of its own."""
    found = Mark.read(Mark(5, b"a" * 32, 7, b"b" * 32).sign(SECRET), key=SECRET)
    assert found == Mark(5, b"a" * 32, 7, b"b" * 32)


def test_a_damaged_mark_here_says_what_to_do(desk):
    desk.work(1)
    (desk.path / "mark").write_bytes(b"rubbish")
    with pytest.raises(BadInput, match=r"found another in .*/mark$") as caught:
        desk.marks.check_own()
    assert "remove" in caught.value.hint
