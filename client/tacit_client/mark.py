"""A mark: how far this partner's ledger and audit log have come, kept where this machine can not put it back.

The partner gives one with every answer, and the server gives the last back at every connection. Whoever puts an older
copy of the ledger in place of a newer one meets it then. The server can keep a mark to itself or give an older one,
and can not make one.
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tacit.codec import Malformed, Reader, Writer
from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.secagg.keys import Secret, derive
from tacit_client.audit import Audit
from tacit_client.ledger import Ledger

__all__ = ["Behind", "Mark", "Marks", "check_ledger", "check_log", "kept", "key_of"]

_log = logging.getLogger(__name__)

_DOMAIN = b"tacit-mark"
_VERSION = 1
_HASH = 32


class Behind(BadInput):
    """The ledger or the audit log is older than, or other than, what this partner has answered with before."""


@dataclass(frozen=True)
class Mark:
    """Number and SHA-256 of the last row of the ledger, and of the last line of the audit log."""

    row: int
    row_hash: bytes
    line: int
    line_hash: bytes

    def sign(self, key: Secret) -> bytes:
        """The mark with an HMAC-SHA-256 under `key`: 123 bytes."""
        body = self._body()
        return body + hmac.digest(key, body, "sha256")

    @classmethod
    def read(cls, data: bytes, *, key: Secret) -> Self:
        """What `sign` gave. Raises BadInput for anything that this partner did not sign."""
        body, mac = data[:-_HASH], data[-_HASH:]
        if not hmac.compare_digest(mac, hmac.digest(key, body, "sha256")):
            raise _foreign()
        reader = Reader(body)
        try:
            if reader.fixed(size=len(_DOMAIN)) != _DOMAIN or reader.number(size=1) != _VERSION:
                raise _foreign()
            found = cls(
                reader.number(size=8), reader.fixed(size=_HASH), reader.number(size=8), reader.fixed(size=_HASH)
            )
            reader.done()
        except Malformed:
            raise _foreign() from None
        return found

    def _body(self) -> bytes:
        writer = Writer().fixed(_DOMAIN, size=len(_DOMAIN)).number(_VERSION, size=1)
        writer.number(self.row, size=8).fixed(self.row_hash, size=_HASH)
        return writer.number(self.line, size=8).fixed(self.line_hash, size=_HASH).done()


class Marks:
    """The marks of one partner: made with every answer, kept beside the ledger and at the server.

    Args:
        path: of the last one made here.
        secret: the partner's ledger key.
        ledger: that is marked.
        audit: that is marked.

    Guarantee: with the last mark that left this machine, `check` refuses every ledger and every audit log that lacks a
    row or a line which the mark covers, or has another in its place.
    """

    def __init__(self, path: Path, *, secret: Secret, ledger: Ledger, audit: Audit) -> None:
        self._path, self._key = path, key_of(secret)
        self._ledger, self._audit = ledger, audit

    def now(self) -> bytes:
        """The mark of this moment, kept here too. Raises BadInput where it can not be."""
        head, (line, line_hash) = self._ledger.head(), self._audit.head()
        made = Mark(head.seq, head.hash, line, line_hash).sign(self._key)
        keyfile.write(self._path, made)
        return made

    def check_own(self) -> None:
        """Compare with the last mark kept here, if there is one. Raises as `check`."""
        if (mark := kept(self._path, key=self._key)) is not None:
            self._compare(mark)

    def check(self, data: bytes) -> None:
        """Compare with `data`, a mark that somebody kept for this partner; nothing for one who kept none.

        Raises:
            Behind: an older ledger or audit log was put in place of a newer one.
            BadInput: no mark of this partner's.
        """
        if not data:
            return
        mark = Mark.read(data, key=self._key)
        try:
            self._compare(mark)
        except Behind:
            keyfile.write(self._path, data)  # so that the next start knows it too
            raise

    def _compare(self, mark: Mark) -> None:
        check_ledger(mark, self._ledger)
        check_log(mark, self._audit)


def key_of(secret: Secret) -> Secret:
    """What marks are authenticated with, from the partner's ledger key."""
    return derive(secret, b"tacit/v1/mark")


def kept(path: Path, *, key: Secret) -> Mark | None:
    """The mark that `Marks` keeps at `path`; None where there is none. Raises BadInput where it is damaged."""
    try:
        return Mark.read(bytes(keyfile.read(path)), key=key) if path.exists() else None
    except BadInput as error:
        raise BadInput(
            f"{error.message} in {path}", hint=f"remove {path}: the server's copy is compared at the next connection"
        ) from None


def check_ledger(mark: Mark, ledger: Ledger) -> None:
    """Raises Behind where `ledger` lacks what `mark` covers."""
    if ledger.hash_at(mark.row) != mark.row_hash:
        raise Behind(
            f"expected the ledger that this partner last answered with, of {mark.row} rows or more, found an older or "
            f"another one of {ledger.head().seq}",
            hint="put the newest ledger.db back; without it nobody knows what was spent about the data, and it can not "
            "be trained on",
        )


def check_log(mark: Mark, audit: Audit) -> None:
    """Raises Behind where `audit` lacks what `mark` covers, and does not say that it took a broken log's place."""
    if audit.hash_at(mark.line) != mark.line_hash and mark.line > audit.renewed_after():
        raise Behind(
            f"expected the audit log that this partner last answered with, of {mark.line} lines or more, found an "
            f"older or another one of {audit.head()[0]}",
            hint="put the newest audit.log back, or begin another with tacit-client audit renew DIR",
        )


def _foreign() -> BadInput:
    return BadInput(
        "expected a mark that this partner made, found another",
        hint="put back keys/ledger.key if it was replaced; else tell the server's operator",
    )
