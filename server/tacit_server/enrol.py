"""How somebody becomes a partner: an invitation, a certificate for it, and every later one for the one before."""

from __future__ import annotations

from datetime import datetime, timedelta

from tacit.errors import BadInput
from tacit.link import enrolment, keyfile
from tacit.link.certificates import Role, Subject, issue, key_hash, make_key, make_request, subject
from tacit.link.invitation import Invitation
from tacit.secagg.keys import PublicKey, identity_of
from tacit_server.folder import Folder
from tacit_server.roster import Refused, Roster

__all__ = ["enrol", "invite", "renew"]

# For so long after an invitation has expired its holder still hears that, instead of a failed handshake.
_AFTERWARDS = timedelta(days=30)


def invite(folder: Folder, roster: Roster, *, name: str, lifetime: timedelta, now: datetime) -> Invitation:
    """A new invitation for `name`, which the roster knows from now on; earlier ones are void.

    Args:
        folder: the server's.
        roster: the server's.
        name: of the partner.
        lifetime: from `now` until it expires.
        now: the clock's.

    Raises:
        BadInput: a name that is none or an active partner's; the server's files can not be used.
    """
    key, authority = make_key(), keyfile.read(folder.authority)
    request = make_request(key, name=name)
    certificate = _issue(folder, request, role=Role.INVITATION, name=name, lifetime=lifetime + _AFTERWARDS, now=now)
    expires = (now + lifetime).replace(microsecond=0)
    server = identity_of(keyfile.read_key(folder.signing_key))
    made = Invitation(name, folder.config.address, server, bytes(authority), certificate, key, expires)
    roster.invite(name, fingerprint=made.subject.fingerprint, expires=expires)
    return made


def enrol(
    folder: Folder,
    roster: Roster,
    *,
    invitation: Subject,
    name: str,
    request: bytes,
    identity: PublicKey,
    proof: bytes,
    now: datetime,
) -> bytes:
    """Make a partner of whoever holds an invitation. Gives its certificate, PEM.

    Args:
        folder: the server's.
        roster: the server's.
        invitation: of the certificate with which the caller came, whose signature TLS has checked.
        name: that the caller goes by.
        request: for the certificate; over a key of the caller's.
        identity: the caller's Ed25519 key, which other partners will know it by.
        proof: that the caller holds it; see `tacit.link.enrolment`.
        now: the clock's.

    Guarantee: the certificate is the invited partner's and nobody else's, whatever the request says, and none is
    handed out before the roster has it.

    Raises:
        Refused: with the reason, for the caller's eyes; nothing has changed then.
        BadInput: the server's own files can not be used.
    """
    if invitation.role is not Role.INVITATION:
        raise Refused(f"expected a certificate for the role invitation, found one for {invitation.role}")
    if name != invitation.name:
        raise Refused(
            f"expected the name {invitation.name}, as in the invitation, found {name[:63]!r}",
            hint=f"join as {invitation.name}",
        )
    try:
        enrolment.check(identity, proof, name=name, request=request, invitation=invitation.fingerprint)
        hashed = key_hash(request)
    except BadInput as error:
        raise Refused(error.message, hint=error.hint) from None
    certificate = _partner_certificate(folder, request, name=name, now=now)
    roster.enrol(
        name=name,
        invitation=invitation.fingerprint,
        identity=identity,
        key_hash=hashed,
        certificate_fingerprint=subject(certificate).fingerprint,
        now=now,
        most=folder.config.max_partners,
    )
    return certificate


def renew(folder: Folder, roster: Roster, *, partner: Subject, request: bytes, now: datetime) -> bytes:
    """Another certificate (PEM) for a partner that has one, as `partner` says it. The key may be another.

    Raises:
        Refused: not admitted by the roster, or a request that is none.
        BadInput: the server's own files can not be used.
    """
    if partner.role is not Role.PARTNER:
        raise Refused(f"expected a certificate for the role partner, found one for {partner.role}")
    roster.admit(partner, now=now)
    try:
        key_hash(request)
    except BadInput as error:
        raise Refused(error.message, hint=error.hint) from None
    certificate = _partner_certificate(folder, request, name=partner.name, now=now)
    roster.renew(partner.name, old=partner.fingerprint, new=subject(certificate).fingerprint)
    return certificate


def _partner_certificate(folder: Folder, request: bytes, *, name: str, now: datetime) -> bytes:
    lifetime = timedelta(days=folder.config.partner_days)
    return _issue(folder, request, role=Role.PARTNER, name=name, lifetime=lifetime, now=now)


def _issue(folder: Folder, request: bytes, *, role: Role, name: str, lifetime: timedelta, now: datetime) -> bytes:
    return issue(
        authority_key=keyfile.read(folder.authority_key),
        authority=keyfile.read(folder.authority),
        request=request,
        role=role,
        name=name,
        lifetime=lifetime,
        now=now,
    )
