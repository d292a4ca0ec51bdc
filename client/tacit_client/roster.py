"""roster.toml: the partners as the server named them last, with its signature; only looked at, never counted.

What counts is `peers.toml`. This file says which keys there are to be accepted, and which version came last, so that
an older list is known for what it is.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import tomli_w
from pydantic import BaseModel, ConfigDict

from tacit.check import parse
from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.link.roster import SignedRoster, federation_of
from tacit.secagg.keys import PublicKey, Signature
from tacit_client.keys import Keys

__all__ = ["check", "keep", "named", "read"]

_REMEDY = "delete that file; the server's next list takes its place, and what was accepted stays accepted"


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: int
    signature: str
    peers: dict[str, str]


def read(path: Path, *, keys: Keys) -> SignedRoster | None:
    """The list at `path`, or None where there is no file.

    Args:
        path: of roster.toml.
        keys: the partner's, which know server and federation.

    Raises:
        BadInput: it can not be read, is none, or the server did not sign it.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        file = parse(_File, raw, where=path.name)
        peers = {name: PublicKey(_bytes(text)) for name, text in file.peers.items()}
        found = SignedRoster(file.version, peers, Signature(_bytes(file.signature)))
        found.check(server=keys.server, federation=federation_of(keys.authority))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"expected to read {path}, found {error.strerror}", hint="mend the file's rights") from None
    except (ValueError, RecursionError) as error:  # bad TOML and bad UTF-8; numbers and brackets without end
        raise BadInput(f"expected the server's list of partners in {path}, found {error}", hint=_REMEDY) from None
    except BadInput as error:
        raise BadInput(f"{error.message}, in {path}", hint=_REMEDY) from None
    return found


def named(path: Path, *, keys: Keys) -> dict[str, PublicKey]:
    """The keys by name in the list at `path`; none where there is no file. Raises BadInput as `read`."""
    found = read(path, keys=keys)
    return {} if found is None else dict(found.peers)


def keep(path: Path, new: SignedRoster, *, keys: Keys) -> None:
    """Put `new` at `path`, in place of the list that is there.

    Args:
        path: of roster.toml.
        new: as the server gave it.
        keys: the partner's, which know server and federation.

    Guarantee: what is there stays unless `new` is signed by this partner's server for this federation and is of a
    later version.

    Raises:
        BadInput: as `check`, or it can not be written.
    """
    if check(path, new, keys=keys) != new:
        raw = {
            "version": new.version,
            "signature": new.signature.hex(),
            "peers": {name: key.hex() for name, key in new.peers.items()},
        }
        keyfile.write(path, tomli_w.dumps(raw).encode())


def check(path: Path, new: SignedRoster, *, keys: Keys) -> SignedRoster | None:
    """Whether `new` may take the place of the list at `path`, which is given back; None where there is none.

    Raises:
        BadInput: a wrong signature, an older list, another one of the same version, or the one that is there can not
            be read.
    """
    new.check(server=keys.server, federation=federation_of(keys.authority))
    known = read(path, keys=keys)
    if known is not None and new.version < known.version:
        raise BadInput(
            f"expected a list of partners of version {known.version} or later, found version {new.version}",
            hint="ask the server's operator whether an older roster.db was put back, with partners removed since; if "
            f"no list of version {known.version} was ever meant, delete {path}: what was accepted stays accepted",
        )
    if known is not None and new.version == known.version and new != known:
        raise BadInput(
            f"expected the list of partners known as version {known.version}, found another of the same version",
            hint="tell the server's operator: the server names other partners to you than it did before",
        )
    return known


def _bytes(text: str) -> bytes:
    if not re.fullmatch("([0-9a-f]{2})*", text):
        raise BadInput("expected keys and signature in hexadecimal digits, found another text", hint=_REMEDY)
    return bytes.fromhex(text)
