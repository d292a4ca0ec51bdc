"""Who may take part: invitations, partners, and which Flower node is which partner.

One SQLite file that the gateway, the rounds and the operator's commands read and write at the same time. Nothing
secret lies in it: of invitations, keys and certificates it knows fingerprints and public halves alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tacit.errors import BadInput
from tacit.link.certificates import Role, Subject
from tacit.link.names import check_name
from tacit.secagg.keys import PublicKey
from tacit_server import membership
from tacit_server.database import Database
from tacit_server.membership import Refused, State

__all__ = ["PartnerRow", "Refused", "Roster"]

_SHOWN = 120  # characters of a partner's own words that are kept


@dataclass(frozen=True)
class PartnerRow:
    """One partner, as the operator sees it.

    Attributes:
        name: of the partner.
        identity: its Ed25519 key, or None before it joins for the first time.
        state: a removed partner that was invited anew is invited.
        joined: when it became a partner.
        last_seen: when it was last connected.
        device: what it says it computes on; one printable line.
        online: whether it is connected now.
        expires: of the invitation that is open, or None.
    """

    name: str
    identity: PublicKey | None
    state: State
    joined: datetime | None
    last_seen: datetime | None
    device: str
    online: bool
    expires: datetime | None


class Roster:
    """The roster in the file `path`, made if missing; safe for threads and processes.

    Args:
        path: of the file.
        clock: seconds since 1970; only versions are made of it.

    Every method raises BadInput where the file can not be read or written.

    Guarantee: an invitation makes one partner, however many ask at the same moment; who was removed is admitted no
    more from that moment on; a node, and an identity key, belongs to one partner.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._db = Database(path, schema=membership.SCHEMA, version=membership.VERSION)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def invite(self, name: str, *, fingerprint: str, expires: datetime) -> None:
        """Open an invitation for `name`; earlier ones for it are revoked.

        Args:
            name: of the partner.
            fingerprint: of the invitation's certificate.
            expires: from when on it is refused.

        Raises:
            BadInput: a name that is none, or an active partner's.
        """
        with self._db.change() as db:
            if membership.state_of(db, check_name(name)) == "active":
                raise BadInput(
                    f"expected a name that is free, found {name}, an active partner",
                    hint=f"remove {name} first where it has lost its keys, or choose another name",
                )
            membership.revoke(db, name)
            values = fingerprint, name, expires.timestamp()
            db.execute("INSERT INTO invitation (fingerprint, name, expires, state) VALUES (?, ?, ?, 'open')", values)
            renamed = "ON CONFLICT (name) DO UPDATE SET state = 'invited'"
            db.execute(f"INSERT INTO partner (name, state) VALUES (?, 'invited') {renamed}", (name,))

    def enrol(
        self,
        *,
        name: str,
        invitation: str,
        identity: PublicKey,
        key_hash: str,
        certificate_fingerprint: str,
        now: datetime,
        most: int | None = None,
    ) -> None:
        """Use an invitation: `name` is an active partner from now on.

        The same identity and key again are the same use, of a partner that never heard the answer, and change the
        certificate only.

        Args:
            name: of the partner.
            invitation: fingerprint of its certificate.
            identity: the partner's Ed25519 key.
            key_hash: of the key that the certificate is for.
            certificate_fingerprint: of the partner's certificate.
            now: compared with the invitation's end.
            most: active partners at a time; None for any number.

        Guarantee: one transaction; of those who ask with other keys at the same moment one is let in.

        Raises:
            Refused: an unknown, used, expired or revoked invitation, one for another name, another partner's
                identity key, or too many partners.
        """
        with self._db.change() as db:
            keys: dict[str, object] = {"identity": identity, "key_hash": key_hash}
            if membership.check_invitation(db, invitation, name=name, identity=identity, key_hash=key_hash, now=now):
                values = certificate_fingerprint, name
                db.execute("UPDATE partner SET previous = certificate, certificate = ? WHERE name = ?", values)
                return
            membership.check_newcomer(db, name, identity=identity, most=most)
            keys |= {"name": name, "invitation": invitation, "new": certificate_fingerprint, "now": now.timestamp()}
            db.execute(
                "UPDATE invitation SET state = 'used', identity = :identity, key_hash = :key_hash "
                "WHERE fingerprint = :invitation",
                keys,
            )
            db.execute(
                "UPDATE partner SET state = 'active', mark = IIF(identity IS :identity, mark, x''), "
                "identity = :identity, certificate = :new, previous = NULL, joined = :now WHERE name = :name",
                keys,
            )
            membership.raise_version(db, self._clock())

    def renew(self, name: str, *, old: str, new: str) -> None:
        """Let `name` in with the certificate `new` too; `old`, which asked for it, stays good until the next one.

        So a partner that never heard the answer asks again with what it has. Both are fingerprints.

        Raises:
            Refused: as `admit`.
        """
        with self._db.change() as db:
            membership.check_partner(db, name, fingerprint=old)
            db.execute("UPDATE partner SET previous = ?, certificate = ? WHERE name = ?", (old, new, name))

    def admit(self, subject: Subject, *, now: datetime | None = None) -> None:
        """Whether the holder of a certificate, whose signature TLS has checked, may call. `now` is the clock's.

        Invitations are looked at more closely by `enrol`.

        Guarantee: who is removed, or has since got two newer certificates, is refused although TLS accepts it, and
        so is a certificate that ended while its connection stood.

        Raises:
            Refused: removed, unknown, an outdated certificate, or another role than partner and invitation.
        """
        if subject.not_after <= (now or datetime.now(UTC)):
            raise Refused(f"expected a certificate in date, found one that ended {subject.not_after:%Y-%m-%d}")
        with self._db.look() as db:
            match subject.role:
                case Role.PARTNER:
                    membership.check_partner(db, subject.name, fingerprint=subject.fingerprint)
                case Role.INVITATION:
                    query = "SELECT 1 FROM invitation WHERE fingerprint = ? AND name = ?"
                    if not db.execute(query, (subject.fingerprint, subject.name)).fetchone():
                        raise Refused("expected an invitation of this server, found an unknown one")
                case _:
                    raise Refused(f"expected a certificate for the role partner, found one for {subject.role}")

    def remove(self, name: str) -> None:
        """End the membership of `name`, or its invitation. Raises BadInput where it has neither."""
        with self._db.change() as db:
            state = membership.state_of(db, name)
            if state not in ("active", "invited"):
                found = "one removed before" if state else "no such name"
                raise BadInput(
                    f"expected a partner or an invitation called {name[:63]!r}, found {found}",
                    hint="see tacit-server partners",
                )
            membership.revoke(db, name)
            db.execute("DELETE FROM node WHERE name = ?", (name,))
            db.execute("UPDATE partner SET state = 'removed', online = 0 WHERE name = ?", (name,))
            membership.raise_version(db, self._clock())

    def partners(self) -> list[PartnerRow]:
        """Everyone who was ever invited, by name."""
        query = (
            "SELECT name, identity, state, joined, last_seen, device, online, (SELECT MAX(expires) FROM invitation "
            "WHERE invitation.name = partner.name AND invitation.state = 'open') FROM partner ORDER BY name"
        )
        with self._db.look() as db:
            return [
                PartnerRow(name, identity, state, _moment(joined), _moment(seen), device, bool(on), _moment(expires))
                for name, identity, state, joined, seen, device, on, expires in db.execute(query)
            ]

    def node(self, name: str, *, session: str, node: int, now: datetime) -> None:
        """Flower's `node`, below 2^64, is `name`'s in the life `session` of its process; its earlier one is forgotten.

        Raises:
            Refused: no active partner, or another partner's node.
        """
        with self._db.change() as db:
            membership.check_active(db, name)
            if db.execute("SELECT 1 FROM node WHERE node = ? AND name <> ?", (str(node), name)).fetchone():
                raise Refused(f"expected a node of {name}'s own, found that of another", hint="start the partner anew")
            values = name, str(node), session, now.timestamp()
            db.execute("INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?)", values)

    def forget_node(self, node: int) -> None:
        """`node` is nobody's any more."""
        with self._db.change() as db:
            db.execute("DELETE FROM node WHERE node = ?", (str(node),))

    def nodes(self) -> dict[int, tuple[str, PublicKey]]:
        """Name and identity key of the active partner behind every node."""
        query = "SELECT node, name, identity FROM node JOIN partner USING (name) WHERE state = 'active' ORDER BY name"
        with self._db.look() as db:
            return {int(node): (name, PublicKey(identity)) for node, name, identity in db.execute(query)}

    def seen(self, name: str, *, online: bool, device: str, now: datetime) -> None:
        """Note for the operator that `name` came or went. Changes no membership."""
        clean = "".join(c for c in device if c.isprintable())[:_SHOWN]  # a partner's words, for a terminal
        with self._db.change() as db:
            values = online, clean, now.timestamp(), name
            change = "UPDATE partner SET online = ? AND state = 'active', device = ?, last_seen = ? WHERE name = ?"
            db.execute(change, values)

    def nobody_online(self) -> None:
        """Nobody is connected: for a gateway that starts, since the last one may have died without a word."""
        with self._db.change() as db:
            db.execute("UPDATE partner SET online = 0")

    def members(self) -> tuple[int, dict[str, PublicKey]]:
        """The version, and every active partner's identity key by name, of one moment."""
        query = "SELECT name, identity FROM partner WHERE state = 'active' ORDER BY name"
        with self._db.look() as db:
            (version,) = db.execute("SELECT version FROM membership").fetchone()
            return int(version), {name: PublicKey(identity) for name, identity in db.execute(query)}

    def keep_mark(self, name: str, mark: bytes) -> None:
        """Keep `mark` for `name` in place of the one before, on disk when this returns; what it says is not looked at.

        A partner that joins anew under another identity key has none.

        Raises:
            BadInput: longer than any mark.
            Refused: no active partner.
        """
        if len(mark) > membership.MARK:
            raise BadInput(
                f"expected a mark of at most {membership.MARK} bytes, found {len(mark)}",
                hint="install the same version of tacit on both sides",
            )
        with self._db.change() as db:
            membership.check_active(db, name)
            db.execute("UPDATE partner SET mark = ? WHERE name = ?", (mark, name))

    def mark(self, name: str) -> bytes:
        """The last mark that was kept for `name`; empty where there is none."""
        with self._db.look() as db:
            found = db.execute("SELECT mark FROM partner WHERE name = ?", (name,)).fetchone()
        return bytes(found[0]) if found else b""

    def version(self) -> int:
        """A number that rises whenever somebody joins or is removed."""
        with self._db.look() as db:
            (version,) = db.execute("SELECT version FROM membership").fetchone()
        return int(version)


def _moment(stamp: float | None) -> datetime | None:
    return None if stamp is None else datetime.fromtimestamp(stamp, UTC)
