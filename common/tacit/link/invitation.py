"""An invitation: the file that lets one partner join one federation, once."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict

from tacit.check import parse
from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.link.certificates import Role, Subject, check_issued
from tacit.link.identity import check_identity
from tacit.link.names import check_address, check_name
from tacit.secagg.constants import KEY
from tacit.secagg.keys import PublicKey, Secret

__all__ = ["Invitation"]

_FORM = "%Y-%m-%dT%H:%M:%SZ"
_VERSION = 2
_LONGEST = 65_536  # bytes of the file; ours have 2,500
_HEAD = """\
# An invitation to a Tacit federation. Whoever holds this file can join under the name in it, once: keep it secret
# until then. Join with: tacit-client join FILE --dir DIR
"""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[2]
    name: str
    address: str
    expires: str
    server: str
    authority: str
    certificate: str
    key: str


@dataclass(frozen=True)
class Invitation:
    """What the operator hands to a partner.

    Attributes:
        name: the partner's, in this federation.
        address: of the gateway, host:port.
        server: the public half of the server's signing key: by it the partner knows rosters, jobs and statements.
        authority: the federation's own certificate, PEM: by it the partner knows the gateway.
        certificate: the invitation's, PEM: by it the server knows the invitation.
        key: of that certificate, PEM; whoever has it can join in the partner's place.
        expires: after which the server refuses it; aware, in whole seconds. The certificate is valid for longer, so
            that a late partner hears the reason instead of a failed handshake.

    Guarantee: the key is not shown by `repr`, and a file is written for its owner alone.

    Raises:
        BadInput: parts that do not fit each other.
    """

    name: str
    address: str
    server: PublicKey
    authority: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    key: Secret = field(repr=False)
    expires: datetime

    def __post_init__(self) -> None:
        check_name(self.name)
        check_address(self.address)
        check_identity(self.server, whose="the server")
        found = self.subject
        if found.name != self.name:
            raise BadInput(
                f"expected a certificate for {self.name} in the invitation, found one for {found.name}",
                hint="ask the operator for a new invitation",
            )

    @property
    def subject(self) -> Subject:
        """Of the invitation's certificate."""
        return check_issued(self.certificate, authority=self.authority, key=self.key, role=Role.INVITATION)

    def write(self, path: Path) -> None:
        """Put the invitation at `path`, mode 0600. Raises BadInput where it can not be written."""
        content = {
            "version": _VERSION,
            "name": self.name,
            "address": self.address,
            "expires": self.expires.astimezone(UTC).strftime(_FORM),
            "server": self.server.hex(),
            "authority": self.authority.decode("ascii"),
            "certificate": self.certificate.decode("ascii"),
            "key": self.key.decode("ascii"),
        }
        keyfile.write(path, (_HEAD + tomli_w.dumps(content, multiline_strings=True)).encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The invitation at `path`, whatever its mode: it came by way of other machines.

        Raises:
            BadInput: no such file, no invitation, or one whose parts do not fit each other.
        """
        found = _toml(path)
        if found.get("version") == 1:
            raise BadInput(
                f"expected an invitation of version {_VERSION} in {path.name}, found one of version 1",
                hint="ask the operator to install this version of tacit and to send a new invitation",
            )
        file = parse(_File, found, where=path.name)
        try:
            expires = datetime.strptime(file.expires, _FORM).replace(tzinfo=UTC)
        except ValueError:
            raise BadInput(
                f"expected expires as 2030-12-31T23:59:59Z in {path.name}, found {file.expires[:40]!r}",
                hint="ask the operator for a new invitation",
            ) from None
        authority, certificate = file.authority.encode(), file.certificate.encode()
        key = Secret(file.key.encode())
        return cls(file.name, file.address, _server(file.server, path), authority, certificate, key, expires)


def _server(text: str, path: Path) -> PublicKey:
    if not re.fullmatch(f"[0-9a-f]{{{2 * KEY}}}", text):
        raise BadInput(
            f"expected server as {2 * KEY} hexadecimal digits in {path.name}, found {text[:80]!r}",
            hint="ask the operator for a new invitation",
        )
    return PublicKey(bytes.fromhex(text))


def _toml(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
    except OSError as error:
        raise BadInput(
            f"expected an invitation at {path}, found none: {error.strerror}", hint="check the path"
        ) from None
    try:
        found = tomllib.loads(content.decode()) if len(content) <= _LONGEST else None
    except (ValueError, RecursionError):  # no TOML, or no UTF-8; the parser's words could repeat the key
        found = None
    if found is None:
        raise BadInput(
            f"expected an invitation in {path}, found another kind of file", hint="name the file the operator sent"
        )
    return found
