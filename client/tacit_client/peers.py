"""Peers: whose identity keys this partner accepted, beside what the server says they are.

`peers.toml` is the partner's own and counts: a line `name = "identity key in hex"` for each. What the server named last
(`tacit_client.roster`) is only looked at. Keys are compared by their owners over another channel.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tomli_w

from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.link.enrolment import fingerprint
from tacit.link.identity import check_identity
from tacit.link.names import check_name
from tacit.secagg.constants import KEY
from tacit.secagg.keys import PublicKey

__all__ = ["Peer", "State", "accept", "acceptable", "overview", "read", "remove", "write"]

State = Literal["accepted", "new", "changed", "not named"]


@dataclass(frozen=True)
class Peer:
    """One partner as both files have it.

    Attributes:
        name: of the peer.
        accepted: its key in peers.toml.
        named: its key as the server has it.
    """

    name: str
    accepted: PublicKey | None
    named: PublicKey | None

    @property
    def key(self) -> PublicKey:
        """The accepted key, or else the named one."""
        return self.accepted or self.named or PublicKey(b"")

    @property
    def state(self) -> State:
        """`changed` is an alarm: the server names another key than the accepted one."""
        if self.accepted is None:
            return "new"
        if self.named is None:
            return "not named"
        return "accepted" if self.named == self.accepted else "changed"


def read(path: Path) -> dict[str, PublicKey]:
    """The keys by name in the file at `path`; none where there is no file.

    Raises:
        BadInput: not TOML, a name that is none, a key that is none, or one key under two names.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInput(f"expected to read {path}, found {error.strerror}", hint="mend the file's rights") from None
    except (ValueError, RecursionError) as error:  # bad TOML and bad UTF-8; numbers and brackets without end
        raise BadInput(f"expected TOML in {path}, found {error}", hint="mend that line") from None
    found = {name: _key(name, text, path) for name, text in raw.items()}
    if len(set(found.values())) != len(found):
        raise BadInput(
            f"expected a key of its own for every peer, found one twice in {path}", hint="remove one of them"
        )
    return found


def write(path: Path, peers: Mapping[str, PublicKey]) -> None:
    """Put `peers` at `path`, whole or not at all, synced to disk and open to its owner alone.

    Raises:
        BadInput: a name or a key that is none, or no way to write.
    """
    raw = {name: bytes(key).hex() for name, key in sorted(peers.items())}
    _check_distinct({name: _key(name, text, path) for name, text in raw.items()}, path)
    keyfile.write(path, tomli_w.dumps(raw).encode())


def overview(peers: Path, *, named: Mapping[str, PublicKey]) -> tuple[Peer, ...]:
    """Every peer that was accepted or is named by the server, by name. Raises BadInput."""
    accepted = read(peers)
    return tuple(Peer(name, accepted.get(name), named.get(name)) for name in sorted({*accepted, *named}))


def acceptable(peers: Path, name: str, *, named: Mapping[str, PublicKey]) -> PublicKey:
    """The key with which `accept` would accept `name`.

    Raises:
        BadInput: the server names no such partner, or another key than the one accepted before.
    """
    accepted = read(peers)
    if name not in named:
        raise BadInput(
            f"expected one of {', '.join(sorted(named)) or 'no names yet'} in the server's list, found {name}",
            hint="correct the name, or fetch the list as it is now: tacit-client peers DIR --refresh",
        )
    if name in accepted and accepted[name] != named[name]:
        raise BadInput(
            f"expected the accepted key of {name} ({fingerprint(accepted[name])}), found that the server names another "
            f"({fingerprint(named[name])})",
            hint="ask that partner over another channel; only if its key really changed, remove it and accept it anew",
        )
    return named[name]


def accept(peers: Path, name: str, *, named: Mapping[str, PublicKey]) -> PublicKey:
    """Count `name` as accepted with the key that the server names for it, which is given back.

    Raises:
        BadInput: as `acceptable`, or it can not be written.

    Guarantee: an accepted key is never replaced; a new one has to be accepted after the old one was removed.
    """
    key = acceptable(peers, name, named=named)
    write(peers, {**read(peers), name: key})
    return key


def remove(peers: Path, name: str) -> None:
    """Count `name` no longer as accepted. Raises BadInput where it was not."""
    accepted = read(peers)
    if name not in accepted:
        raise BadInput(f"expected an accepted peer, found {name}, which is none", hint="see tacit-client peers DIR")
    write(peers, {other: key for other, key in accepted.items() if other != name})


def _check_distinct(peers: Mapping[str, PublicKey], path: Path) -> None:
    if len(set(peers.values())) != len(peers):
        raise BadInput(
            f"expected a key of its own for every peer, found one twice in {path}", hint="remove one of them"
        )


def _key(name: str, text: object, path: Path) -> PublicKey:
    try:
        check_name(name)
    except BadInput as error:
        raise BadInput(f"{error.message} in {path}", hint="remove that line") from None
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * KEY}}}", text):
        raise BadInput(
            f"expected an identity key of {2 * KEY} hex digits for {name}, found another value in {path}",
            hint="remove that line, and accept the peer again",
        )
    try:
        return check_identity(bytes.fromhex(text), whose=name)
    except BadInput as error:
        raise BadInput(f"{error.message} in {path}", hint="remove that line") from None
