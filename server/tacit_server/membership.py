"""The rules of the roster, one transaction at a time: tables, and who may become or stay what.

Every function takes the connection inside a transaction, looks, and raises Refused; only `revoke` and `raise_version`
change a row.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Literal, get_args

from tacit.errors import TacitError
from tacit.secagg.keys import PublicKey

__all__ = [
    "MARK",
    "SCHEMA",
    "VERSION",
    "Refused",
    "State",
    "check_active",
    "check_invitation",
    "check_newcomer",
    "check_partner",
    "raise_version",
    "revoke",
    "state_of",
]

State = Literal["invited", "active", "removed"]

VERSION = 2
"""Of the tables."""

MARK = 256
"""Bytes of a partner's mark, at most; ours have 123."""

SCHEMA = (
    """CREATE TABLE invitation (
        fingerprint TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        expires REAL NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('open', 'used', 'revoked')),
        identity BLOB,
        key_hash TEXT
    ) STRICT""",
    f"""CREATE TABLE partner (
        name TEXT PRIMARY KEY,
        state TEXT NOT NULL CHECK (state IN {get_args(State)}),
        identity BLOB,
        certificate TEXT,
        previous TEXT,
        joined REAL,
        last_seen REAL,
        device TEXT NOT NULL DEFAULT '',
        online INTEGER NOT NULL DEFAULT 0,
        mark BLOB NOT NULL DEFAULT x''
    ) STRICT""",
    # A node is a number below 2^64, which SQLite's numbers are not.
    "CREATE TABLE node (name TEXT PRIMARY KEY, node TEXT NOT NULL UNIQUE, session TEXT NOT NULL, since REAL) STRICT",
    "CREATE TABLE membership (version INTEGER NOT NULL) STRICT",
    "INSERT INTO membership VALUES (0)",
)
"""Used invitations are kept: they say which identity key belongs to which name, also of partners long gone."""


class Refused(TacitError):
    """Somebody asks for what they may not have; the message is for their eyes."""

    def __init__(self, message: str, *, hint: str = "ask the server's operator for a new invitation") -> None:
        super().__init__(message, hint=hint)


def state_of(db: sqlite3.Connection, name: str) -> State | None:
    """What `name` is, or None for a name never heard."""
    found = db.execute("SELECT state FROM partner WHERE name = ?", (name,)).fetchone()
    return found[0] if found else None


def revoke(db: sqlite3.Connection, name: str) -> None:
    """End all invitations of `name`; used ones too, or who is removed could say it never heard the answer."""
    db.execute("UPDATE invitation SET state = 'revoked' WHERE name = ?", (name,))


def raise_version(db: sqlite3.Connection, now: float) -> None:
    """Count one change of membership; `now` is in seconds since 1970.

    The version is that second, and at least one more than before: a roster.db from a backup gets past every version
    that was given out before, with its first change. Only a clock that was set back, or more changes than seconds,
    could keep it from that.
    """
    db.execute("UPDATE membership SET version = MAX(version + 1, ?)", (int(now),))


def check_invitation(
    db: sqlite3.Connection, fingerprint: str, *, name: str, identity: PublicKey, key_hash: str, now: datetime
) -> bool:
    """Whether this is the second time that the same keys ask, rather than the first that any do. Raises Refused."""
    query = "SELECT name, expires, state, identity, key_hash FROM invitation WHERE fingerprint = ?"
    found = db.execute(query, (fingerprint,)).fetchone()
    if found is None:
        raise Refused("expected an invitation of this server, found an unknown one")
    invited, expires, state, *known = found
    again: bool = state == "used" and known == [identity, key_hash]
    if invited != name:
        raise Refused(
            f"expected the name {invited}, as in the invitation, found {name[:63]!r}", hint=f"join as {invited}"
        )
    if state == "revoked":
        raise Refused(
            "expected an invitation that is still open, found one that was revoked",
            hint="use the newer invitation, or ask the server's operator for one",
        )
    if state == "used" and not again:
        raise Refused(
            "expected an invitation that is still open, found one that was used with other keys",
            hint="if that was not you, tell the server's operator at once: somebody else has joined in your name",
        )
    if now.timestamp() >= expires:
        ended = f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M} UTC"
        raise Refused(f"expected an invitation that is still open, found one that expired {ended}")
    return again


def check_newcomer(db: sqlite3.Connection, name: str, *, identity: PublicKey, most: int | None) -> None:
    """Whether `identity` is free for `name`, and there is room for one partner more. Raises Refused."""
    query = "SELECT 1 FROM invitation WHERE identity = ? AND name <> ?"
    if db.execute(query, (identity, name)).fetchone():
        raise Refused(
            f"expected an identity key of {name}'s own, found that of another partner", hint="join in an empty folder"
        )
    (active,) = db.execute("SELECT COUNT(*) FROM partner WHERE state = 'active'").fetchone()
    if most is not None and active >= most:
        raise Refused(
            f"expected fewer than {most} partners, found {active}",
            hint="ask the server's operator to raise max_partners, then join again",
        )


def check_active(db: sqlite3.Connection, name: str) -> None:
    """Whether `name` is a partner now. Raises Refused."""
    state = state_of(db, name)
    if state == "removed":
        raise Refused(f"expected an active partner, found that {name} was removed")
    if state != "active":
        raise Refused(f"expected an active partner, found {name}, who has not joined")


def check_partner(db: sqlite3.Connection, name: str, *, fingerprint: str) -> None:
    """Whether `name` is a partner now and `fingerprint` its certificate, the last or the one before. Raises Refused."""
    check_active(db, name)
    if fingerprint not in db.execute("SELECT certificate, previous FROM partner WHERE name = ?", (name,)).fetchone():
        raise Refused(
            f"expected the current certificate of {name}, found another",
            hint="stop the other copy of this partner's folder, or ask the server's operator for a new invitation",
        )
