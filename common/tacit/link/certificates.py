"""Certificates of one federation: its authority signs them all, and each says who its holder is and what it may be.

X.509 (RFC 5280) with ECDSA over P-256, which every TLS library speaks; the holder stands in a URI of our own,
`urn:tacit:<role>:<name>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.errors import BadInput
from tacit.link import pem
from tacit.link.names import check_host, check_name
from tacit.secagg.keys import Secret, digest

__all__ = [
    "Role",
    "Subject",
    "check_issued",
    "due",
    "hosts",
    "issue",
    "key_hash",
    "make_authority",
    "make_key",
    "make_request",
    "subject",
]

_URN = "urn:tacit:"
_BACK = timedelta(days=1)  # clocks may differ, and a wrong time zone is off by less than this


class Role(StrEnum):
    """What the holder of a certificate may be."""

    AUTHORITY = "authority"
    GATEWAY = "gateway"
    PARTNER = "partner"
    INVITATION = "invitation"


_USAGE = {
    Role.GATEWAY: ExtendedKeyUsageOID.SERVER_AUTH,
    Role.PARTNER: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.INVITATION: ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True)
class Subject:
    """Who a certificate is about.

    Attributes:
        role: what its holder may be.
        name: of the holder.
        fingerprint: SHA-256 of the certificate's DER, in hex.
        not_before, not_after: when it is valid, in UTC.
    """

    role: Role
    name: str
    fingerprint: str
    not_before: datetime
    not_after: datetime


def make_key() -> Secret:
    """A new private key: P-256, PKCS8, PEM without a password."""
    key = generate_private_key(SECP256R1())
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def make_authority(*, name: str, lifetime: timedelta, now: datetime | None = None) -> tuple[Secret, bytes]:
    """Key and certificate of a new authority, both PEM; `now` is the clock's unless given.

    It signs holders' certificates and no other authorities (path length 0).
    """
    key = make_key()
    private = pem.private_key(key)
    moment = now or datetime.now(UTC)
    builder = _builder(private.public_key(), role=Role.AUTHORITY, name=name).issuer_name(_distinguished(name))
    builder = builder.not_valid_before(moment - _BACK).not_valid_after(moment + lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return key, builder.sign(private, SHA256()).public_bytes(Encoding.PEM)


def make_request(key: bytes, *, name: str) -> bytes:
    """A signed request (PKCS10, PEM) for a certificate over the public half of `key`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_distinguished(check_name(name)))
    return builder.sign(pem.private_key(key), SHA256()).public_bytes(Encoding.PEM)


def issue(
    *,
    authority_key: bytes,
    authority: bytes,
    request: bytes,
    role: Role,
    name: str,
    lifetime: timedelta,
    hosts: Sequence[str] = (),
    now: datetime | None = None,
) -> bytes:
    """A certificate (PEM) for the public key in `request`, valid from a day before `now`.

    Args:
        authority_key: PEM.
        authority: the authority's certificate, PEM; what is issued never outlives it.
        request: PKCS10, PEM, signed with the key that it holds.
        role: any but the authority's.
        name: of the holder.
        lifetime: from `now` on.
        hosts: names and addresses under which a gateway is reached; one or more for it, none for the others.
        now: the clock's unless given.

    Guarantee: nothing of the request but its public key is taken over, so that nobody names itself, and the holder
    of one role's certificate is not accepted in another.

    Raises:
        BadInput: a request whose signature or key does not fit, an authority that has expired or whose key is
            another's, a name that is none.
    """
    if (role is Role.GATEWAY) != bool(hosts) or role not in _USAGE:
        raise BadInput(f"expected hosts for a gateway alone, found {len(hosts)} for {role}", hint="name the hosts")
    private, signer, moment = pem.private_key(authority_key), pem.certificate(authority), now or datetime.now(UTC)
    if private.public_key() != signer.public_key():
        raise BadInput("expected the authority's own key, found another", hint="restore both files from one backup")
    if signer.not_valid_after_utc <= moment:
        raise BadInput(
            f"expected an authority that is still valid, found one that ended {signer.not_valid_after_utc:%Y-%m-%d}",
            hint="make a new server folder with tacit-server init and invite every partner anew",
        )
    others = tuple(_general_name(host) for host in hosts)
    builder = _builder(pem.requested_key(request), role=role, name=check_name(name), others=others)
    builder = builder.issuer_name(signer.subject).not_valid_before(moment - _BACK)
    builder = builder.not_valid_after(min(moment + lifetime, signer.not_valid_after_utc))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([_USAGE[role]]), critical=False)
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key())
    return builder.add_extension(known, critical=False).sign(private, SHA256()).public_bytes(Encoding.PEM)


def subject(certificate: bytes) -> Subject:
    """Who `certificate` (PEM) is about. Whether its signature, chain and dates hold is for TLS and `check_issued`.

    Raises:
        BadInput: anything but one certificate that `issue` or `make_authority` could have made.
    """
    found = pem.certificate(certificate)
    try:
        role, name = _holder(found)
    except (*pem.BROKEN, x509.ExtensionNotFound, BadInput):
        raise BadInput(
            "expected a certificate of a tacit federation, found another", hint="use the certificate that join stored"
        ) from None
    fingerprint = found.fingerprint(SHA256()).hex()
    return Subject(role, name, fingerprint, found.not_valid_before_utc, found.not_valid_after_utc)


def check_issued(certificate: bytes, *, authority: bytes, key: bytes, role: Role) -> Subject:
    """The subject of `certificate`, which `authority` issued to the holder of `key` for `role`; all PEM.

    Raises:
        BadInput: any of it does not fit.
    """
    found, who = pem.certificate(certificate), subject(certificate)
    if who.role is not role:
        raise BadInput(
            f"expected a certificate for the role {role}, found one for {who.role}", hint="use the right file"
        )
    try:
        found.verify_directly_issued_by(pem.certificate(authority))
        own = found.public_key() == pem.private_key(key).public_key()
    except (*pem.BROKEN, TypeError, InvalidSignature):
        raise BadInput(
            f"expected a certificate issued by this federation's authority to {who.name}, found another issuer's",
            hint="ask the operator for a new invitation",
        ) from None
    if not own:
        raise BadInput(
            f"expected the certificate of the key beside it for {who.name}, found another key's",
            hint="ask the operator for a new invitation",
        )
    return who


def due(certificate: bytes, *, now: datetime) -> bool:
    """Whether less than a third of its life is left to `certificate`: time to renew, with time for failed attempts."""
    found = pem.certificate(certificate)
    life = found.not_valid_after_utc - (found.not_valid_before_utc + _BACK)
    return found.not_valid_after_utc - now < life / 3


def hosts(certificate: bytes) -> tuple[str, ...]:
    """Names and addresses in `certificate` (PEM) under which its holder is reached. Raises BadInput as `subject`."""
    subject(certificate)
    names = pem.certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))


def key_hash(request: bytes) -> str:
    """SHA-256, in hex, of the public key in `request`: the same for every request over one key. Raises BadInput."""
    key = pem.requested_key(request).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return digest(key).hex()


def _builder(
    key: EllipticCurvePublicKey, *, role: Role, name: str, others: Sequence[x509.GeneralName] = ()
) -> x509.CertificateBuilder:
    """What every certificate has."""
    builder = x509.CertificateBuilder().subject_name(_distinguished(name)).public_key(key)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{_URN}{role}:{name}"), *others])
    builder = builder.add_extension(names, critical=False).serial_number(x509.random_serial_number())
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _holder(found: x509.Certificate) -> tuple[Role, str]:
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    role, _, name = uri.removeprefix(_URN).partition(":")
    holder = Role(role), check_name(name)
    if uri != f"{_URN}{role}:{name}" or found.subject != _distinguished(name):
        raise ValueError(uri)
    is_authority = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    if is_authority != (holder[0] is Role.AUTHORITY):
        raise ValueError(uri)
    if not is_authority:
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if list(usage) != [_USAGE[holder[0]]]:
            raise ValueError(uri)
    return holder


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _distinguished(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(check_host(host)))
    except ValueError:
        return x509.DNSName(host)
