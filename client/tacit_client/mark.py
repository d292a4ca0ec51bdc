"""A mark: how far this partner's ledger and audit log have come, kept where this machine can not put it back.

The partner gives one with every answer, and the server gives the last back at every connection. Whoever puts an older
copy of the ledger in place of a newer one meets it then. The server can keep a mark to itself or give an older one,
and can not make one.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Self

from tacit.codec import Malformed, Reader, Writer
from tacit.errors import BadInput
from tacit.secagg.keys import Secret

__all__ = ["Mark"]

_DOMAIN = b"tacit-mark"
_VERSION = 1
_HASH = 32


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


def _foreign() -> BadInput:
    return BadInput(
        "expected a mark that this partner made, found another", hint="tell the server's operator; it is not used"
    )
