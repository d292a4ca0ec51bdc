"""The roster as partners get it: who takes part, in a version that only rises, signed by the server.

What it says of other partners' identity keys is a proposal, which people check over another channel. The signature
makes it the server's own word, for this federation; the version makes an older one known for what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from tacit.codec import Writer
from tacit.errors import BadInput
from tacit.link import link_pb2
from tacit.link.certificates import subject
from tacit.link.identity import check_identity
from tacit.link.names import check_name
from tacit.secagg.constants import SIGNATURE
from tacit.secagg.keys import PublicKey, Secret, Signature, sign, verifies

__all__ = ["SignedRoster", "federation_of"]

_DOMAIN = b"tacit-roster"  # nothing else that the server signs begins so
_FORM = 1
_LATEST = 2**63  # of versions: what SQLite and TOML can hold
_SAME = "install the same version of tacit on both sides, and tell the server's operator"


def federation_of(authority: bytes) -> bytes:
    """SHA-256 of a federation's certificate, DER; 32 bytes. `authority`: PEM. Raises BadInput where it is none."""
    return bytes.fromhex(subject(authority).fingerprint)


@dataclass(frozen=True)
class SignedRoster:
    """Who takes part.

    Attributes:
        version: at least 1; of two rosters of one server the later one has the higher version.
        peers: identity keys by name, sorted, each key once.
        signature: over all this; see `check`.

    Raises:
        BadInput: a version, name, key or signature that is none, or a key that is there twice.
    """

    version: int
    peers: Mapping[str, PublicKey]
    signature: Signature

    def __post_init__(self) -> None:
        _check(self.version, self.peers, self.signature)
        object.__setattr__(self, "peers", MappingProxyType(dict(sorted(self.peers.items()))))

    @classmethod
    def sign(cls, peers: Mapping[str, PublicKey], *, version: int, federation: bytes, key: Secret) -> Self:
        """The roster of `federation`, signed with the server's key. Raises BadInput as the class."""
        unsigned = cls(version, peers, Signature(bytes(SIGNATURE)))
        return cls(version, peers, sign(key, unsigned.message(federation)))

    def check(self, *, server: PublicKey, federation: bytes) -> None:
        """Whether `server` signed this, for `federation`.

        Guarantee: a roster that differs in anything from what was signed is refused: version, a name, a key, one more
        or fewer, another federation, another server.

        Raises:
            BadInput: it did not.
        """
        if not verifies(self.signature, identity=server, message=self.message(federation)):
            raise BadInput(
                "expected a list of partners signed with the server's key, found a wrong signature",
                hint="tell the server's operator: this is another server, or somebody is in its place",
            )

    def message(self, federation: bytes) -> bytes:
        """What is signed, byte by byte as in spec/link.md."""
        writer = Writer().fixed(_DOMAIN, size=len(_DOMAIN)).number(_FORM, size=1).fixed(federation, size=32)
        writer.number(self.version, size=8).number(len(self.peers), size=4)
        for name, key in self.peers.items():
            writer.text(name).fixed(key, size=32)
        return writer.done()

    def pack(self) -> link_pb2.SignedRoster:
        """As it goes over the link."""
        peers = [link_pb2.Peer(name=name, identity=key) for name, key in self.peers.items()]
        return link_pb2.SignedRoster(version=self.version, peers=peers, signature=self.signature)

    @classmethod
    def unpack(cls, message: link_pb2.SignedRoster) -> Self:
        """What `pack` gave, and nothing else. Raises BadInput."""
        names = [peer.name for peer in message.peers]
        if names != sorted(set(names)):
            raise BadInput("expected every partner once, sorted by name, found another list of partners", hint=_SAME)
        peers = {peer.name: PublicKey(peer.identity) for peer in message.peers}
        return cls(message.version, peers, Signature(message.signature))


def _check(version: int, peers: Mapping[str, PublicKey], signature: bytes) -> None:
    if not 1 <= version < _LATEST:
        raise BadInput(f"expected a list of partners of version 1 or more, found {version}", hint=_SAME)
    for name, key in peers.items():
        check_identity(key, whose=check_name(name))
    if len(set(peers.values())) != len(peers):
        raise BadInput("expected a key of its own for every partner, found one twice", hint=_SAME)
    if len(signature) != SIGNATURE:
        raise BadInput(f"expected a signature of {SIGNATURE} bytes, found {len(signature)}", hint=_SAME)
