"""Certificates against `cryptography`'s own verifiers: a valid chain for its role, and for no other."""

from __future__ import annotations

import ssl
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import DNSName, IPAddress, PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link import pem
from tacit.link.certificates import (
    Role,
    check_issued,
    due,
    hosts,
    issue,
    key_hash,
    make_authority,
    make_key,
    make_request,
    subject,
)

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEY, AUTHORITY = make_authority(name="authority", lifetime=1000 * DAY, now=NOW)
OTHER_KEY, OTHER = make_authority(name="authority", lifetime=1000 * DAY, now=NOW)
LINK = make_key()
HOSTS = {Role.GATEWAY: ("fl.example.org", "192.0.2.7", "2001:db8::1")}
HOLDERS = (Role.GATEWAY, Role.PARTNER, Role.INVITATION)


def _issue(role=Role.PARTNER, *, name="hospital-a", lifetime=90 * DAY, request=None, now=NOW, **authority):
    signer = {"authority_key": KEY, "authority": AUTHORITY} | authority
    wanted = request or make_request(LINK, name=name)
    return issue(request=wanted, role=role, name=name, lifetime=lifetime, hosts=HOSTS.get(role, ()), now=now, **signer)


def _policy(*, now, authority=AUTHORITY):
    return PolicyBuilder().store(Store([x509.load_pem_x509_certificate(authority)])).time(now)


def _as_server(certificate, *, host, now=NOW, authority=AUTHORITY):
    _policy(now=now, authority=authority).build_server_verifier(host).verify(
        x509.load_pem_x509_certificate(certificate), []
    )


def _as_client(certificate, *, now=NOW, authority=AUTHORITY):
    found = _policy(now=now, authority=authority).build_client_verifier()
    return found.verify(x509.load_pem_x509_certificate(certificate), [])


def test_a_gateway_is_a_server_under_each_of_its_hosts():
    certificate = _issue(Role.GATEWAY)
    names = [DNSName("fl.example.org"), *(IPAddress(ip_address(text)) for text in ("192.0.2.7", "2001:db8::1"))]
    for name in names:
        _as_server(certificate, host=name)
    with pytest.raises(VerificationError):
        _as_server(certificate, host=DNSName("example.org"))
    with pytest.raises(VerificationError):
        _as_client(certificate)
    assert hosts(certificate) == HOSTS[Role.GATEWAY]


@pytest.mark.parametrize("role", [Role.PARTNER, Role.INVITATION])
def test_a_partner_and_an_invitation_are_clients_and_no_servers(role):
    certificate = _issue(role)
    verified = _as_client(certificate)
    assert [name.value for name in verified.subjects] == [f"urn:tacit:{role}:hospital-a"]
    with pytest.raises(VerificationError):
        _as_server(certificate, host=DNSName("hospital-a"))
    assert hosts(certificate) == ()


@pytest.mark.parametrize("role", HOLDERS)
def test_dates_and_authorities_count(role):
    certificate, verify = _issue(role), _as_client
    if role is Role.GATEWAY:

        def verify(certificate, **others):
            _as_server(certificate, host=DNSName("fl.example.org"), **others)

    for now in (NOW - DAY, NOW, NOW + 90 * DAY):
        verify(certificate, now=now)
    for now in (NOW - 1.01 * DAY, NOW + 90.01 * DAY):
        with pytest.raises(VerificationError):
            verify(certificate, now=now)
    with pytest.raises(VerificationError):  # of the same name, even
        verify(certificate, authority=OTHER)


@pytest.mark.parametrize("role", HOLDERS)
def test_who_holds_a_certificate_can_issue_none(role):
    below = issue(
        authority_key=LINK,
        authority=_issue(role),
        request=make_request(make_key(), name="x"),
        role=Role.PARTNER,
        name="x",
        lifetime=DAY,
        now=NOW,
    )
    chain = [x509.load_pem_x509_certificate(_issue(role))]
    with pytest.raises(VerificationError):
        _policy(now=NOW).build_client_verifier().verify(x509.load_pem_x509_certificate(below), chain)


def test_a_handshake_of_another_library():
    """OpenSSL takes both sides, under TLS 1.3, and not with the roles exchanged."""
    now = datetime.now(UTC)
    key, authority = make_authority(name="authority", lifetime=DAY, now=now)
    both = {"authority_key": key, "authority": authority, "now": now}
    gateway, partner = _issue(Role.GATEWAY, name="gateway", **both), _issue(**both)
    assert _shake(authority, server=gateway, client=partner) == "TLSv1.3"
    with pytest.raises(ssl.SSLError, match="purpose"):
        _shake(authority, server=gateway, client=gateway)
    with pytest.raises(ssl.SSLError, match="purpose"):
        _shake(authority, server=partner, client=partner)


def _shake(authority, *, server, client):
    sides = []
    for protocol, certificate in ((ssl.PROTOCOL_TLS_SERVER, server), (ssl.PROTOCOL_TLS_CLIENT, client)):
        context = ssl.SSLContext(protocol)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.decode())
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(LINK) + certificate)
            file.flush()
            context.load_cert_chain(file.name)
        inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = protocol is ssl.PROTOCOL_TLS_SERVER
        host = None if is_server else "fl.example.org"
        sides.append((context.wrap_bio(inward, outward, server_side=is_server, server_hostname=host), inward, outward))
    for _ in range(6):
        for (side, inward, _), (_, _, others) in (sides, sides[::-1]):
            inward.write(others.read())
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return sides[0][0].version()


@pytest.mark.parametrize("role", HOLDERS)
def test_the_subject_is_what_was_issued(role):
    certificate = _issue(role, lifetime=2 * DAY)
    found = subject(certificate)
    assert (found.role, found.name) == (role, "hospital-a")
    assert (found.not_before, found.not_after) == (NOW - DAY, NOW + 2 * DAY)
    assert found.fingerprint == x509.load_pem_x509_certificate(certificate).fingerprint(SHA256()).hex()
    assert subject(AUTHORITY).role is Role.AUTHORITY


def test_nothing_of_a_request_but_its_key_is_taken_over():
    private = pem.private_key(LINK)
    greedy = x509.CertificateSigningRequestBuilder(_name("gateway"))
    for extension in (
        x509.BasicConstraints(ca=True, path_length=3),
        x509.SubjectAlternativeName([x509.DNSName("fl.example.org"), x509.UniformResourceIdentifier("urn:tacit:x:y")]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    ):
        greedy = greedy.add_extension(extension, critical=True)
    request = greedy.sign(private, SHA256()).public_bytes(Encoding.PEM)
    plain, wanted = (x509.load_pem_x509_certificate(_issue(request=each)) for each in (None, request))
    assert wanted.subject == plain.subject
    assert list(wanted.extensions) == list(plain.extensions)
    assert len(wanted.extensions) == 6
    assert wanted.public_key() == private.public_key()
    assert wanted.serial_number != plain.serial_number


def _request_over(key, algorithm):
    return x509.CertificateSigningRequestBuilder(_name("x")).sign(key, algorithm).public_bytes(Encoding.PEM)


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def test_requests_that_are_refused():
    good = make_request(LINK, name="x")
    der = bytearray(x509.load_pem_x509_csr(good).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()
    cases = {
        "wrong signature": forged,
        "another kind of key": _request_over(ed25519.Ed25519PrivateKey.generate(), None),
        "kind of key": _request_over(rsa.generate_private_key(65537, 2048), SHA256()),
        "another kind": _request_over(ec.generate_private_key(ec.SECP384R1()), SHA256()),
        "found none": b"no request",
        "10000 bytes": good + b" " * (10_000 - len(good)),
    }
    assert len(cases) == 6
    for found, request in cases.items():
        for use in (lambda text: _issue(request=text), key_hash):
            with pytest.raises(BadInput, match=found):
                use(request)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a change may hit it
@given(st.binary(max_size=200), st.integers(0, 400))
def test_broken_bytes_are_bad_input(noise, at):
    good = make_request(LINK, name="x")
    for text, use in ((good, key_hash), (AUTHORITY, subject), (bytes(LINK), pem.private_key)):
        broken = text[:at] + noise + text[at + len(noise) :]
        with suppress(BadInput):  # and nothing else
            use(broken)


def test_the_hash_of_a_key_is_the_key_s():
    first, second = make_request(LINK, name="a"), make_request(LINK, name="b")
    assert first != second
    assert key_hash(first) == key_hash(second) != key_hash(make_request(make_key(), name="a"))


def test_foreign_certificates_have_no_subject():
    foreign = [
        _foreign(uris) for uris in ([], ["urn:tacit:partner:x"] * 2, ["urn:tacit:king:x"], ["urn:tacit:partner:X"])
    ]
    foreign += [_foreign(["urn:tacit:partner:y"]), _foreign(["urn:tacit:partner:x"], usage="SERVER_AUTH")]
    foreign += [_foreign(["urn:tacit:partner:x"], usage=None), _foreign(["urn:tacit:authority:x"])]
    foreign += [_foreign(["urn:tacit:partner:x"], is_authority=True), AUTHORITY + AUTHORITY, b"", bytes(LINK)]
    assert len(foreign) == 12
    for certificate in foreign:
        with pytest.raises(BadInput, match=r"expected (a|one) certificate"):
            subject(certificate)
    assert subject(_foreign(["urn:tacit:partner:x"])).name == "x"


def _foreign(uris, *, usage="CLIENT_AUTH", is_authority=False):
    private = pem.private_key(LINK)
    builder = x509.CertificateBuilder(_name("x"), _name("x"), private.public_key(), 1, NOW, NOW + DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, usage)]), critical=False)
    return builder.sign(private, SHA256()).public_bytes(Encoding.PEM)


def test_check_issued_wants_authority_key_and_role():
    certificate = _issue()
    assert check_issued(certificate, authority=AUTHORITY, key=LINK, role=Role.PARTNER) == subject(certificate)
    with pytest.raises(BadInput, match="another issuer's"):
        check_issued(certificate, authority=OTHER, key=LINK, role=Role.PARTNER)
    with pytest.raises(BadInput, match="another key's"):
        check_issued(certificate, authority=AUTHORITY, key=make_key(), role=Role.PARTNER)
    with pytest.raises(BadInput, match="role invitation, found one for partner"):
        check_issued(certificate, authority=AUTHORITY, key=LINK, role=Role.INVITATION)


@pytest.mark.parametrize("days", [1 / 24, 1, 90])
def test_due_with_a_third_of_life_left(days):
    certificate = _issue(lifetime=days * DAY)
    assert not due(certificate, now=NOW)
    assert not due(certificate, now=NOW + 0.65 * days * DAY)
    assert due(certificate, now=NOW + 0.68 * days * DAY)
    assert due(certificate, now=NOW + 2 * days * DAY)


def test_nothing_outlives_its_authority():
    key, authority = make_authority(name="authority", lifetime=10 * DAY, now=NOW)
    assert subject(_issue(authority_key=key, authority=authority)).not_after == NOW + 10 * DAY
    with pytest.raises(BadInput, match="one that ended 2030-06-11"):
        _issue(authority_key=key, authority=authority, now=NOW + 11 * DAY)
    with pytest.raises(BadInput, match="the authority's own key"):
        _issue(authority_key=OTHER_KEY)


def test_roles_without_hosts_and_hosts_without_a_role():
    wanted = {"authority_key": KEY, "authority": AUTHORITY, "request": make_request(LINK, name="x"), "lifetime": DAY}
    for role, names in ((Role.GATEWAY, ()), (Role.PARTNER, ("a.b",)), (Role.AUTHORITY, ()), (Role.AUTHORITY, ("a.b",))):
        with pytest.raises(BadInput, match="expected hosts"):
            issue(role=role, name="x", hosts=names, **wanted)
    with pytest.raises(BadInput, match="expected a host"):
        issue(role=Role.GATEWAY, name="x", hosts=("*.b",), **wanted)
    with pytest.raises(BadInput, match="partner's name"):
        issue(role=Role.PARTNER, name="x:y", **wanted)


def test_keys_show_nothing_of_themselves():
    assert "PRIVATE" not in f"{LINK} {LINK!r} {KEY!r}"
    assert bytes(LINK).startswith(b"-----BEGIN PRIVATE KEY-----")
    locked = pem.private_key(LINK).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(BadInput, match="private P-256 key"):
        pem.private_key(locked)


CURVE = bytes.fromhex("06082a8648ce3d030107")  # the object identifier of P-256, as DER


def _der(tag: int, content: bytes) -> bytes:
    long = b"" if len(content) < 128 else b"\x81" if len(content) < 256 else b"\x82"
    return bytes([tag]) + long + len(content).to_bytes(max(1, 2 * long.count(0x82))) + content


def _altered(certificate: bytes, old: bytes, new: bytes) -> bytes:
    """What an authority signs that takes another program to do so."""
    found = x509.load_pem_x509_certificate(certificate)
    assert found.tbs_certificate_bytes.count(old) == 1
    body = found.tbs_certificate_bytes.replace(old, new)
    signature = pem.private_key(KEY).sign(body, ec.ECDSA(SHA256()))
    whole = _der(0x30, body + bytes.fromhex("300a06082a8648ce3d040302") + _der(0x03, b"\0" + signature))
    return ssl.DER_cert_to_PEM_cert(whole).encode()


def test_a_key_of_a_kind_that_nobody_knows_is_one_line():
    """A lying server gives it for a renewal, a stranger in an invitation."""
    certificate, strange = _issue(), CURVE[:-1] + b"\x63"
    same = _altered(certificate, CURVE, CURVE)
    assert check_issued(same, authority=AUTHORITY, key=LINK, role=Role.PARTNER).name == "hospital-a"
    with pytest.raises(BadInput, match="expected a certificate issued by this federation's authority"):
        check_issued(_altered(certificate, CURVE, strange), authority=AUTHORITY, key=LINK, role=Role.PARTNER)
    authority = _altered(AUTHORITY, CURVE, strange)
    with pytest.raises(BadInput, match="expected a certificate issued by this federation's authority"):
        check_issued(certificate, authority=authority, key=LINK, role=Role.PARTNER)
