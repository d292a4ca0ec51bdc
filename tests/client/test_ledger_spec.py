"""Hash and mac of a ledger, computed from tacit/spec/ledger.md alone."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from contextlib import closing
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.privacy.events import Event
from tacit.secagg.keys import Secret
from tacit_client.chain import Row
from tacit_client.ledger import DataSet, Ledger, Release, accept

ROOT = Path(__file__).resolve().parents[2]
SECRET = bytes(range(32))
NUMBERS, TEXTS = ("seq", "at"), ("kind", "partner", "dataset", "unit", "continues", "job", "run")


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _text(value: str) -> bytes:
    return len(value.encode()).to_bytes(4, "big") + value.encode()


def test_rows_are_what_the_page_says(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    event = Event(kind="dp-sgd", sampling_rate=0.05, noise_multiplier=1.1, steps=3)
    first, second = DataSet("0" * 64), DataSet("1" * 64)
    with closing(Ledger(path, partner="Spital Zürich", key=Secret(SECRET), dataset=first)) as ledger:
        ledger.reserve(Release("run", 1, 2, event, job="a" * 64))
        ledger.confirm(Release("run", 1, 2, event, job="a" * 64))
    accept(path, partner="Spital Zürich", key=Secret(SECRET), dataset=second)
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"tacit/v1/ledger").derive(SECRET)
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        rows = db.execute("SELECT * FROM entry ORDER BY seq").fetchall()
    before = bytes(32)
    for row in rows:
        content = b"tacit-ledger\x01" + before + b"".join(_number(row[name]) for name in NUMBERS)
        content += b"".join(_text(row[name]) for name in TEXTS)
        content += _number(row["round"]) + _number(row["attempt"]) + _text(row["event"])
        before = hashlib.sha256(content).digest()
        assert row["hash"] == before
        assert row["mac"] == hmac.new(key, before, hashlib.sha256).digest()
    assert [row["kind"] for row in rows] == ["dataset", "reserved", "confirmed", "dataset"]
    assert rows[3]["continues"] == first.fingerprint


def test_the_page_names_every_column_in_order() -> None:
    page = (ROOT / "common/tacit/spec/ledger.md").read_text(encoding="utf-8")
    table = page[page.index("| column |") : page.index("`hash` is the SHA-256")]
    named = [name.strip(" `") for line in table.splitlines()[2:] if line for name in line.split("|")[1].split(",")]
    assert tuple(named) == Row._fields
