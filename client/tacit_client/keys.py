"""A partner's keys: made on its machine, kept there, and never sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.link.certificates import Role, check_issued, make_key, make_request, subject
from tacit.link.identity import check_identity
from tacit.secagg.constants import KEY
from tacit.secagg.keys import PublicKey, identity_of
from tacit_client import strongbox

__all__ = ["Keys"]


class Keys:
    """The folder `keys/` of a partner, mode 0700, files 0600.

        identity.key     32 bytes: signs for this partner under secure aggregation (Ed25519)
        ledger.key       32 bytes: from it are derived the keys that authenticate ledger, audit log and marks
        server.pub       32 bytes: by it the server's rosters, jobs and statements are known (Ed25519)
        link.key         speaks TLS with the server (P-256, PEM)
        link.pem         the certificate over it; missing until the server has issued it
        authority.pem    the federation's certificate, by which the gateway is known

    The three private ones may be sealed with a passphrase (`tacit_client.strongbox`).

    Attributes:
        identity: the private identity key.
        public: its public half, by which the other partners know this one.
        ledger: the secret behind ledger, audit log and marks.
        server: the server's public signing key, as the invitation gave it.
        authority: PEM.

    Guarantee: `repr` shows no key, and files that others can read are not used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.identity = strongbox.read_key(path / "identity.key")
        self.public: PublicKey = identity_of(self.identity)
        self.authority = bytes(keyfile.read(path / "authority.pem"))
        _check_current(path)
        self.ledger = strongbox.read_key(path / "ledger.key")
        self.server = check_identity(keyfile.read_key(path / "server.pub"), whose="the server")
        self._link = strongbox.read(path / "link.key")
        certificate = path / "link.pem"
        self._certificate = bytes(keyfile.read(certificate)) if certificate.exists() else None
        if self._certificate is not None:
            self._check(self._certificate)

    def __repr__(self) -> str:
        return f"Keys({str(self._path)!r})"

    @classmethod
    def make(cls, path: Path, *, authority: bytes, server: PublicKey) -> Keys:
        """Make keys at `path`, or go on with those that an interrupted call has left there.

        Args:
            path: the folder; its parent must exist.
            authority: the federation's certificate, PEM.
            server: the server's public signing key.

        Guarantee: a key that exists is kept, so that asking twice is asking with the same keys; of the server's, which
        came with the invitation, this holds from the moment there is a certificate.

        Raises:
            BadInput: the folder can not be written, is open to others, or belongs to another federation.
        """
        keyfile.make_folder(path)
        # The authority goes first: keys without one could be taken for any federation's.
        makers: dict[str, Callable[[], bytes]] = {
            "authority.pem": lambda: authority,
            "ledger.key": lambda: os.urandom(KEY),
            "identity.key": lambda: os.urandom(KEY),
            "link.key": make_key,
        }
        for name, make in makers.items():
            if not strongbox.is_there(path / name):
                keyfile.write(path / name, make())
        ours = keyfile.read(path / "authority.pem") == authority
        if ours and not (path / "link.pem").exists():  # nothing was taken on the word of another signing key yet
            keyfile.write(path / "server.pub", server)
        keys = cls(path)
        if (keys.authority, keys.server) != (authority, server):
            raise BadInput(
                f"expected the keys of this federation in {path}, found those of another",
                hint="join in an empty folder",
            )
        return keys

    @classmethod
    def open(cls, path: Path) -> Keys:
        """The keys at `path`, complete. Raises BadInput where they are not, do not fit, or are open to others."""
        keys = cls(path)
        _ = keys.certificate
        return keys

    @property
    def certificate(self) -> bytes:
        """The certificate in use, PEM. Raises BadInput before the server has issued one."""
        if self._certificate is None:
            raise BadInput(
                f"expected a certificate in {self._path}, found none yet", hint="finish tacit-client join, the same way"
            )
        return self._certificate

    @property
    def name(self) -> str:
        """The partner's name, as its certificate has it. Raises BadInput as `certificate`."""
        return subject(self.certificate).name

    @property
    def is_complete(self) -> bool:
        """Whether the server has issued a certificate."""
        return self._certificate is not None

    def files(self) -> tuple[bytes, bytes, bytes]:
        """Key, certificate and authority for TLS, each PEM. Raises BadInput as `certificate`."""
        return self._link, self.certificate, self.authority

    def request(self, name: str) -> bytes:
        """A request (PEM) for a certificate over the link key."""
        return make_request(self._link, name=name)

    def keep(self, certificate: bytes) -> None:
        """Use `certificate` from now on; on disk it takes the place of the one before, at once or not at all.

        Raises:
            BadInput: not issued by this federation, to this key, for a partner of the same name, or not written.
        """
        who = self._check(certificate)
        if self._certificate is not None and who != self.name:
            raise BadInput(
                f"expected a certificate for {self.name}, found one for {who}", hint="tell the server's operator"
            )
        keyfile.write(self._path / "link.pem", certificate)
        self._certificate = certificate

    def _check(self, certificate: bytes) -> str:
        return check_issued(certificate, authority=self.authority, key=self._link, role=Role.PARTNER).name


def _check_current(path: Path) -> None:
    """Folders that joined before there were these two have neither, and there is no safe way to make up for it."""
    for name in ("server.pub", "ledger.key"):
        if not strongbox.is_there(path / name):
            raise BadInput(
                f"expected {path / name}, found none: lost, or this folder joined with an older version of tacit",
                hint="restore it from a backup, or ask the operator for a new invitation and join in a new folder",
            )
