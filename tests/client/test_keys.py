"""A partner's keys: made once, kept from others, and no certificate but their own."""

from __future__ import annotations

import stat
from datetime import timedelta

import pytest

from tacit.errors import BadInput
from tacit.link.certificates import Role, issue, key_hash, make_authority, make_key, make_request
from tacit.secagg.keys import PublicKey, Secret, identity_of, sign, verifies
from tacit_client.keys import Keys

KEY, AUTHORITY = make_authority(name="authority", lifetime=timedelta(days=9))
OTHER_KEY, OTHER = make_authority(name="authority", lifetime=timedelta(days=9))
SERVER = identity_of(Secret(bytes(range(32))))
FILES = ("authority.pem", "identity.key", "ledger.key", "link.key", "server.pub")


GIVEN = ("authority.pem", "server.pub")


def _issue(request, *, role=Role.PARTNER, name="hospital-a", signer=(KEY, AUTHORITY)):
    return issue(
        authority_key=signer[0],
        authority=signer[1],
        request=request,
        role=role,
        name=name,
        lifetime=timedelta(days=1),
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def keys(path):
    return Keys.make(path, authority=AUTHORITY, server=SERVER)


@pytest.fixture
def complete(keys):
    keys.keep(_issue(keys.request("hospital-a")))
    return keys


def test_what_is_on_disk(path, complete):
    found = sorted(path.iterdir())
    assert [file.name for file in found] == sorted([*FILES, "link.pem"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in found] == [0o600] * 6
    assert [len((path / name).read_bytes()) for name in ("identity.key", "ledger.key", "server.pub")] == [32] * 3
    assert complete.server == (path / "server.pub").read_bytes() == SERVER


def test_opened_again_they_are_the_same(path, complete):
    found = Keys.open(path)
    assert (found.identity, found.public, found.authority) == (complete.identity, complete.public, AUTHORITY)
    assert found.files() == complete.files()
    assert found.name == "hospital-a"
    assert key_hash(found.request("hospital-a")) == key_hash(complete.request("hospital-a"))
    assert found.public == identity_of(found.identity)
    assert verifies(sign(found.identity, b"m"), identity=complete.public, message=b"m")


def test_two_partners_share_nothing(tmp_path, keys):
    other = Keys.make(tmp_path / "other", authority=AUTHORITY, server=SERVER)
    assert other.identity != keys.identity
    assert other.ledger != keys.ledger
    assert key_hash(other.request("a")) != key_hash(keys.request("a"))


def test_nothing_shows_a_key(complete):
    shown = f"{complete!r} {complete} {complete.identity} {complete.identity!r} {complete.files()[0]!r}"
    assert complete.identity.hex() not in shown
    assert complete.ledger.hex() not in shown
    assert repr(bytes(complete.identity)) not in shown
    assert "PRIVATE" not in shown


@pytest.mark.parametrize("missing", [(), FILES[2:], FILES[1:], FILES, ("identity.key",)])
def test_making_goes_on_where_it_was_interrupted(path, keys, missing):
    before = {name: (path / name).read_bytes() for name in FILES}
    for name in missing:
        (path / name).unlink()
    again = Keys.make(path, authority=AUTHORITY, server=SERVER)
    for name in FILES:
        assert ((path / name).read_bytes() == before[name]) == (name not in missing or name in GIVEN)
    assert not again.is_complete


def test_before_the_server_has_answered(path, keys):
    assert not keys.is_complete
    for use in (lambda: Keys.open(path), keys.files, lambda: keys.certificate, lambda: keys.name):
        with pytest.raises(BadInput, match=r"expected a certificate in .*, found none yet"):
            use()


def test_a_certificate_is_kept_only_where_it_is_one_s_own(path, complete):
    kept, request = complete.certificate, complete.request("hospital-a")
    cases = {
        "another issuer's": _issue(request, signer=(OTHER_KEY, OTHER)),
        "another key's": _issue(make_request(make_key(), name="hospital-a")),
        "role partner, found one for invitation": _issue(request, role=Role.INVITATION),
        "expected a certificate for hospital-a, found one for hospital-b": _issue(request, name="hospital-b"),
        "expected one certificate in PEM": b"none",
    }
    assert len(cases) == 5
    for reason, certificate in cases.items():
        with pytest.raises(BadInput, match=reason):
            complete.keep(certificate)
        assert complete.certificate == kept
        assert (path / "link.pem").read_bytes() == kept
    newer = _issue(request)
    complete.keep(newer)
    assert complete.files()[1] == Keys.open(path).certificate == newer != kept


def test_a_certificate_that_can_not_be_written_is_not_used(path, complete, monkeypatch):
    kept, newer = complete.certificate, _issue(complete.request("hospital-a"))

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        complete.keep(newer)
    assert complete.certificate == Keys.open(path).certificate == kept


def test_keys_that_others_can_read_or_that_are_broken(path, complete):
    for name in (*FILES, "link.pem"):
        (path / name).chmod(0o644)
        with pytest.raises(BadInput, match=f"{name} to be open to its owner alone, found mode 0644"):
            Keys.open(path)
        (path / name).chmod(0o600)
    for name, content in (
        ("identity.key", b"short"),
        ("ledger.key", bytes(31)),
        ("server.pub", bytes(32)),
        ("link.pem", b"none"),
        ("link.key", bytes(make_key())),
    ):
        before = (path / name).read_bytes()
        (path / name).write_bytes(content)
        with pytest.raises(BadInput, match="expected"):
            Keys.open(path)
        (path / name).write_bytes(before)
    path.chmod(0o755)
    with pytest.raises(BadInput, match="found mode 0755"):
        Keys.make(path, authority=AUTHORITY, server=SERVER)
    path.chmod(0o700)
    Keys.open(path)


def test_another_federation_s_keys_are_not_taken(path, keys):
    other = PublicKey(identity_of(Secret(bytes(32))))
    Keys.make(path, authority=AUTHORITY, server=other)  # nothing was taken on this server's word yet
    Keys.make(path, authority=AUTHORITY, server=SERVER).keep(_issue(keys.request("a")))
    with pytest.raises(BadInput, match="found those of another"):
        Keys.make(path, authority=AUTHORITY, server=other)
    with pytest.raises(BadInput, match="found those of another"):
        Keys.make(path, authority=OTHER, server=SERVER)


def test_no_keys(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInput, match="expected to read"):
            Keys.open(path)


@pytest.mark.parametrize("name", ["server.pub", "ledger.key"])
def test_a_folder_from_before_there_was_a_server_s_key(path, complete, name):
    (path / name).unlink()
    with pytest.raises(BadInput, match=f"{name}, found none: lost, or .* joined with an older version") as raised:
        Keys.open(path)
    assert "ask the operator for a new invitation" in raised.value.hint
