"""The rows of a ledger as a chain: what each holds, and what ties it to the one before and to its partner.

Format 1, byte by byte: `tacit/spec/ledger.md`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from tacit.codec import Writer
from tacit.secagg.keys import Secret

__all__ = ["EMPTY", "Broken", "Head", "Row", "check", "forge"]

_DOMAIN = b"tacit-ledger\x01"  # the format's version is its last byte
_HASH = 32
_TYPES = (int, int, *[str] * 7, int, int, str, bytes, bytes)


class Broken(ValueError):
    """A row that does not follow from the one before it. The message says in which way."""


class Head(NamedTuple):
    """The last row of a chain.

    Attributes:
        seq: its number, from 1; 0 for no row.
        hash: its SHA-256, 32 bytes.
    """

    seq: int
    hash: bytes


EMPTY = Head(0, bytes(_HASH))
"""The head of a chain without rows."""


class Row(NamedTuple):
    """One row, in the order of the table's columns.

    Attributes:
        seq: number, from 1 and without gaps.
        at: milliseconds since 1970, never less than in the row before.
        kind: `dataset`, `reserved`, `confirmed` or `judged`.
        partner: whose.
        dataset: fingerprint of the content, 64 hex digits.
        unit: what one more or less of is hidden.
        continues: of a `dataset`: the fingerprint whose budget goes on, or "" for a budget of its own.
        job: SHA-256 of the job in hex; may be "".
        run: id.
        round: number.
        attempt: number.
        event: the accounting event as JSON; "" of a `dataset` and of a `judged`.
        hash: SHA-256 of the row before and of all columns above.
        mac: HMAC-SHA-256 of `hash` under the ledger's key.
    """

    seq: int
    at: int
    kind: str
    partner: str
    dataset: str
    unit: str
    continues: str
    job: str
    run: str
    round: int
    attempt: int
    event: str
    hash: bytes = b""
    mac: bytes = b""

    @property
    def head(self) -> Head:
        """The head of a chain that ends here."""
        return Head(self.seq, self.hash)


def forge(row: Row, *, after: Head, key: Secret) -> Row:
    """`row` with the hash and the mac that tie it to `after`.

    Raises:
        OverflowError: a number that is negative or does not fit in eight bytes.
        UnicodeEncodeError: half a character in a text.
    """
    digest = _digest(row, after=after)
    return row._replace(hash=digest, mac=hmac.digest(key, digest, "sha256"))


def check(row: Row, *, after: Head, key: Secret) -> None:
    """`row` is the one that was written after `after`.

    Guarantee: without `key` nobody makes a row that passes, and with it only what `forge` made does. Every column
    counts, and the place in the chain.

    Raises:
        Broken: it is not.
    """
    if tuple(map(type, row)) != _TYPES:
        raise Broken(f"a value of another type at row {row.seq}")
    if row.seq != after.seq + 1:
        raise Broken(f"row {after.seq + 1} missing" if row.seq > after.seq else f"row {row.seq}, which none is before")
    try:
        digest = _digest(row, after=after)
    except (OverflowError, UnicodeEncodeError):
        raise Broken(f"row {row.seq} with a value that no ledger holds") from None
    # The mac first: a file of another partner is named as such, not as one that was changed.
    if not hmac.compare_digest(row.mac, hmac.digest(key, row.hash, "sha256")):
        raise Broken(f"row {row.seq} that was not written with this partner's ledger key")
    if row.hash != digest:
        raise Broken(f"row {row.seq} changed, or another before it")


def _digest(row: Row, *, after: Head) -> bytes:
    writer = Writer().fixed(_DOMAIN, size=len(_DOMAIN)).fixed(after.hash, size=_HASH)
    writer.number(row.seq, size=8).number(row.at, size=8)
    for text in (row.kind, row.partner, row.dataset, row.unit, row.continues, row.job, row.run):
        writer.text(text)
    writer.number(row.round, size=8).number(row.attempt, size=8).text(row.event)
    return hashlib.sha256(writer.done()).digest()
