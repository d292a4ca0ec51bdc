"""Whatever is done to the file of a ledger is noticed, or changes nothing that is counted, or the head tells."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.privacy.events import Event
from tacit.secagg.keys import Secret, derive
from tacit_client.chain import Head, Row, forge
from tacit_client.ledger import DataSet, Ledger, Release, Tampered

KEY, OTHER, DATA = Secret(bytes(32)), Secret(b"\1" * 32), DataSet("0" * 64)
ROUNDS = 3
ROWS = 1 + 2 * ROUNDS


def _event(steps: int) -> Event:
    return Event(kind="dp-sgd", sampling_rate=0.05, noise_multiplier=1.1, steps=steps)


def _open(path: Path, *, key: Secret = KEY) -> Ledger:
    return Ledger(path, partner="p", key=key, dataset=DATA, durable=False)


def _fill(path: Path, *, key: Secret = KEY, rounds: int = ROUNDS) -> Head:
    """A ledger of `rounds` rounds; it is one file afterwards, without a log beside it."""
    with closing(_open(path, key=key)) as ledger:
        for number in range(1, rounds + 1):
            release = Release("run", number, 1, _event(number), job="a" * 64)
            ledger.reserve(release)
            ledger.confirm(release)
        head = ledger.head()
    assert [found.name for found in path.parent.glob(f"{path.name}*")] == [path.name]
    return head


@pytest.fixture
def path(tmp_path: Path) -> Path:
    _fill(tmp_path / "ledger.db")
    return tmp_path / "ledger.db"


def _sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            assert db.execute(statement).rowcount != 0, statement


def _rows(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as db:
        return [Row._make(row) for row in db.execute("SELECT * FROM entry ORDER BY seq")]


CHANGES = {
    "seq": "seq + 1000",
    "at": "at - 1",
    "kind": "CASE kind WHEN 'reserved' THEN 'confirmed' ELSE 'reserved' END",
    "partner": "partner || ' '",
    "dataset": "replace(dataset, '0', '1')",
    "unit": "'person'",
    "continues": "continues || '0'",
    "job": "job || 'b'",
    "run": "run || 'x'",
    "round": "round + 1",
    "attempt": "attempt + 1",
    "event": "replace(event, '\"steps\": ', '\"steps\":  ') || ' '",
    "hash": "CAST(substr(hash, 1, 31) || x'00' AS BLOB)",
    "mac": "CAST(substr(mac, 1, 31) || x'00' AS BLOB)",
}


def test_every_column_of_every_row_counts(path: Path) -> None:
    assert tuple(CHANGES) == Row._fields
    clean, tried = path.read_bytes(), 0
    for column, value in CHANGES.items():
        for seq in range(1, ROWS + 1):
            path.write_bytes(clean)
            _sql(path, f"UPDATE entry SET {column} = {value} WHERE seq = {seq}")
            with pytest.raises(
                Tampered, match=r"expected the privacy ledger ledger\.db as this partner left it, found"
            ):
                _open(path)
            tried += 1
    assert tried == 14 * ROWS
    path.write_bytes(clean)
    _open(path).close()


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (["DELETE FROM entry WHERE seq = 1"], "row 1 missing"),
        (["DELETE FROM entry WHERE seq = 4"], "row 4 missing"),
        (["DELETE FROM entry WHERE seq = 4", "UPDATE entry SET seq = seq - 1 WHERE seq > 4"], "row 4 changed"),
        (
            [f"UPDATE entry SET seq = {to} WHERE seq = {of}" for of, to in ((2, 99), (4, 2), (99, 4))],
            "row 2 changed, or another before it",
        ),
        (["INSERT INTO entry SELECT -1, at, kind, partner, dataset, unit, continues, job, run, round, attempt, event, "
          "hash, mac FROM entry WHERE seq = 2"], "row -1, which none is before"),
        (["INSERT INTO entry SELECT 8, at, kind, partner, dataset, unit, continues, job, run, round, attempt, event, "
          "hash, mac FROM entry WHERE seq = 2"], "row 8 changed"),
        (["CREATE TRIGGER late AFTER INSERT ON entry BEGIN DELETE FROM entry WHERE seq = NEW.seq; END"], "more than"),
        (["CREATE TABLE other (x)"], "more than the table of rows"),
        (["CREATE INDEX fast ON entry (run)"], "more than the table of rows"),
    ],
)  # fmt: skip
def test_rows_that_are_taken_out_moved_or_put_in_are_noticed(path: Path, statements: list[str], found: str) -> None:
    _sql(path, *statements)
    with pytest.raises(Tampered, match=found):
        _open(path)


def test_whoever_lacks_the_key_can_not_add_a_row_though_the_format_is_known(path: Path) -> None:
    last = _rows(path)[-1]
    new = forge(last._replace(seq=ROWS + 1), after=last.head, key=derive(OTHER, b"tacit/v1/ledger"))
    with closing(_open(path)) as ledger:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(f"INSERT INTO entry VALUES ({', '.join('?' * len(new))})", new)
        with pytest.raises(Tampered, match=f"row {ROWS + 1} that was not written with this partner's ledger key"):
            ledger.reserve(Release("run", 9, 1, _event(1)))
        with pytest.raises(Tampered):
            ledger.totals(run="run")
    with pytest.raises(Tampered):
        _open(path)


def test_another_partners_ledger_is_named_as_such(path: Path, tmp_path: Path) -> None:
    _fill(tmp_path / "theirs.db", key=OTHER)
    shutil.copy(tmp_path / "theirs.db", path)
    with pytest.raises(Tampered, match="row 1 that was not written with this partner's ledger key"):
        _open(path)


def test_an_end_that_was_cut_off_is_noticed_by_who_is_there_and_told_by_the_head(path: Path) -> None:
    with closing(_open(path)) as ledger:
        head = ledger.head()
        _sql(path, f"DELETE FROM entry WHERE seq > {ROWS - 2}")
        with pytest.raises(Tampered, match=f"row {ROWS} missing"):
            ledger.confirm(Release("run", 1, 1, _event(1)))
        with pytest.raises(Tampered):
            ledger.events()
    with closing(_open(path)) as later:  # nothing in the file says that there was more
        assert later.head().seq == ROWS - 2
        assert later.hash_at(head.seq) is None


def test_an_older_copy_is_told_by_the_head_even_after_it_grew_again(path: Path) -> None:
    old = path.read_bytes()
    with closing(_open(path)) as ledger:
        ledger.reserve(Release("run", 4, 1, _event(4)))
        head = ledger.head()
    path.write_bytes(old)
    with closing(_open(path)) as ledger:
        assert ledger.hash_at(head.seq) is None
        for number in (5, 6):
            ledger.reserve(Release("run", number, 1, _event(4)))
        assert ledger.hash_at(head.seq) not in (None, head.hash)


@pytest.mark.parametrize("what", ["row", "kind"])
def test_what_is_edited_under_an_open_ledger_is_never_counted(path: Path, what: str) -> None:
    with closing(_open(path)) as ledger:
        before = ledger.events()
        _sql(path, "DELETE FROM entry WHERE seq = 2" if what == "row" else "UPDATE entry SET kind = 'reserved'")
        if what == "kind":  # the last row is looked at before every append
            with pytest.raises(Tampered, match=f"row {ROWS}"):
                ledger.reserve(Release("run", 4, 1, _event(4)))
        else:
            ledger.reserve(Release("run", 4, 1, _event(4)))
            assert ledger.events() == (*before, _event(4))
    with pytest.raises(Tampered):
        _open(path)


@pytest.mark.parametrize("end", ["", "-wal"])
def test_a_file_that_is_moved_away_under_an_open_ledger_stops_it(path: Path, end: str) -> None:
    with closing(_open(path)) as ledger:
        ledger.reserve(Release("run", 4, 1, _event(4)))
        place = Path(f"{path}{end}")
        place.rename(path.with_name("away"))
        with pytest.raises(Tampered, match="another file in its place"):
            ledger.reserve(Release("run", 5, 1, _event(5)))
        shutil.copy(path.with_name("away"), place)
        with pytest.raises(Tampered, match="another file in its place"):
            ledger.reserve(Release("run", 5, 1, _event(5)))


def test_a_ledger_from_before_the_chain_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    old = "seq INTEGER PRIMARY KEY AUTOINCREMENT, partner TEXT NOT NULL, run TEXT NOT NULL, round INTEGER NOT NULL, "
    old += (
        "attempt INTEGER NOT NULL, state TEXT NOT NULL CHECK (state IN ('reserved', 'confirmed')), event TEXT NOT NULL"
    )
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE entry ({old}) STRICT")
    before = path.read_bytes()
    with pytest.raises(BadInput, match="expected a privacy ledger of format 1") as caught:
        _open(path)
    assert "lower policy.epsilon_limit" in caught.value.hint
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT COUNT(*) FROM entry").fetchall() == [(0,)]
    assert len(before) == path.stat().st_size


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Head]:
    path = tmp_path_factory.mktemp("made") / "ledger.db"
    head = _fill(path, rounds=40)
    return path.read_bytes(), head


def _verdict(path: Path, head: Head) -> str:
    """Whether damage is refused, without effect, or told by the head of before."""
    try:
        ledger = _open(path)
    except BadInput:
        return "refused"
    with closing(ledger):
        if ledger.hash_at(head.seq) != head.hash:
            return "told"
        assert ledger.events() == tuple(_event(number) for number in range(1, 41))
        assert (ledger.head(), len(ledger.totals(run="run"))) == (head, 1)
        return "without effect"


def _damage(folder: Path, content: bytes, head: Head) -> str:
    path = folder / "ledger.db"
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    path.write_bytes(content)
    return _verdict(path, head)


def test_flipped_bits_are_noticed_or_without_effect(made: tuple[bytes, Head], tmp_path: Path) -> None:
    content, head = made
    seen: list[str] = []

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, len(content) - 1), st.integers(1, 255))
    def flip(place: int, bits: int) -> None:
        damaged = bytearray(content)
        damaged[place] ^= bits
        seen.append(_damage(tmp_path, bytes(damaged), head))

    flip()
    assert {"refused"} <= set(seen) <= {"refused", "without effect"}
    assert seen.count("refused") > 20  # much of a small file is room that nothing is in


def test_a_file_that_was_cut_is_noticed_or_told(made: tuple[bytes, Head], tmp_path: Path) -> None:
    content, head = made
    cuts = [*range(0, len(content), 997), *range(0, len(content), 4096), len(content) - 1]
    seen = [_damage(tmp_path, content[:cut], head) for cut in cuts]
    assert len(seen) > 20
    assert set(seen) <= {"refused", "told"}
    assert seen[0] == "told"  # an empty file is a new ledger


def test_the_hash_binds_texts_to_their_columns() -> None:
    row = Row(1, 5, "reserved", "ab", "c", "", "", "", "", 0, 0, "")
    moved = row._replace(partner="a", dataset="bc")
    digests = {forge(one, after=Head(0, bytes(32)), key=KEY).hash for one in (row, moved)}
    assert len(digests) == 2


def test_another_genuine_row_in_place_of_the_last_is_noticed_by_who_is_there(path: Path) -> None:
    """As when an older copy was put back and grew again under a ledger that is open."""
    with closing(_open(path)) as ledger:
        *_, before, last = _rows(path)
        other = forge(last._replace(run="elsewhere"), after=before.head, key=derive(KEY, b"tacit/v1/ledger"))
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE entry SET run = ?, hash = ?, mac = ? WHERE seq = ?", (other.run, *other[-2:], ROWS))
        with pytest.raises(Tampered, match=f"row {ROWS} changed"):
            ledger.reserve(Release("run", 4, 1, _event(4)))
