"""Each thing that the doctor looks at, sound and broken."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import ssl
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import folders
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link import certificates, keyfile
from tacit.link.certificates import Role
from tacit.link.roster import SignedRoster
from tacit.lock import take
from tacit.privacy.events import Event
from tacit.seal import make_key, read_key
from tacit.secagg.keys import Signature
from tacit_client import peers
from tacit_client.audit import Audit
from tacit_client.calls import Greeted
from tacit_client.checkup import books, cohort, connection, holdings, machine, papers, premises
from tacit_client.checkup.finding import Checkup, Outcome, Said
from tacit_client.data import Data
from tacit_client.holding import open_budget
from tacit_client.keys import Keys
from tacit_client.ledger import Release
from tacit_client.mark import Behind, Marks
from tacit_client.sealing import seal
from tacit_client.site import Folder

EVENT = Event(kind="dp-sgd", sampling_rate=0.1, noise_multiplier=1.0, steps=20)
HOST = "127.0.0.1"


@pytest.fixture
def folder(tmp_path) -> Folder:
    """Of hospital `a`, which has accepted `b` and `c`; data of 90 examples."""
    data = folders.write_npz(tmp_path / "data.npz", n=90, seed=1)
    return folders.make_folders(tmp_path, dict.fromkeys("abc", data))["a"]


def _again(folder: Folder, old: str, new: str) -> Folder:
    """With another line in site.toml."""
    folders.change(folder.path, old, new)
    return Folder.open(folder.path)


# how looks hang together


def _look(verdict: str) -> Said[int]:
    if verdict == "raise":
        raise BadInput("expected more", hint="add it")
    return Said("words", 1, verdict)


@given(first=st.sampled_from(["ok", "warn", "FAIL", "raise"]), second=st.sampled_from(["ok", "FAIL"]))
def test_a_look_is_skipped_where_and_only_where_what_it_needs_failed(first, second):
    checkup = Checkup()
    one = checkup.look("one", lambda: _look(first))
    two = checkup.look("two", lambda value: _look(second), one)
    three = checkup.look("three", lambda a: Said(str(a), None), one, after=(two,))
    sound = first in ("ok", "warn")
    verdicts = [finding.verdict for finding in checkup.findings]
    assert verdicts == [
        "FAIL" if first == "raise" else first,
        second if sound else "skip",
        "ok" if sound and second == "ok" else "skip",
    ]
    assert (three.said is not None) == (verdicts[2] == "ok")
    if not sound:
        assert [finding.found for finding in checkup.findings[1:]] == [
            "not looked at, because of one",
        ] * 2  # fmt: skip
    if first == "raise":
        assert (checkup.findings[0].found, checkup.findings[0].remedy) == ("expected more", "add it")


def test_what_is_known_beforehand_is_no_line():
    checkup = Checkup()
    checkup.look("one", lambda value: Said(value, None), Outcome.of("zero", "known"))
    assert [(finding.check, finding.found) for finding in checkup.findings] == [("one", "known")]


# the folder and its machine


def test_a_folder_without_site_toml_is_none(tmp_path):
    with pytest.raises(BadInput, match="expected a partner's folder"):
        premises.place(tmp_path)


def test_rules_fail_in_their_own_words(folder):
    assert premises.site(folder.path).found == "the rules of a can be read"
    folders.change(folder.path, "min_cohort = 3", "min_cohorts = 3")
    with pytest.raises(BadInput, match=r"expected a known key in site.toml, found policy.min_cohorts") as caught:
        premises.site(folder.path)
    assert "min_cohort" in caught.value.hint


@pytest.mark.parametrize("name", ["identity.key", "ledger.key", "link.key", "server.pub", "authority.pem"])
def test_keys_that_others_can_read_fail(folder, name):
    assert premises.keys(folder.path).verdict == "ok"
    (folder.keys / name).chmod(0o644)
    with pytest.raises(BadInput, match=f"{name} to be open to its owner alone, found mode 0644") as caught:
        premises.keys(folder.path)
    assert caught.value.hint == f"run chmod 600 {folder.keys / name}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user(folder):
    open_budget(folder).close()
    assert premises.files(folder).verdict == "ok"
    os.chown(folder.ledger, 12345, 12345)
    said = premises.files(folder)
    assert (said.verdict, said.found) == ("warn", f"{folder.ledger} is another user's")
    os.chown(folder.keys / "identity.key", 12345, 12345)
    with pytest.raises(BadInput, match="another owner"):
        premises.keys(folder.path)


def test_files_that_others_can_read_or_change(folder):
    open_budget(folder).close()
    assert premises.files(folder).verdict == "ok"
    folder.path.chmod(0o770)
    assert premises.files(folder).remedy == f"run chmod go-w {folder.path}"
    folder.path.chmod(0o755)
    assert premises.files(folder).verdict == "ok"
    folder.ledger.chmod(0o640)
    said = premises.files(folder)
    assert (said.verdict, said.remedy) == ("warn", f"run chmod 600 {folder.ledger}")


def test_files_that_can_not_be_written_fail(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder.path)  # root may write everything
    said = premises.files(folder)
    assert (said.verdict, said.found) == ("FAIL", f"this user can not write {folder.path}")


@pytest.mark.parametrize(
    ("free", "verdict", "words"),
    [
        (49_999_999, "FAIL", "50 MB free, too little"),
        (50_000_000, "warn", "50 MB free"),
        (2 * 10**9, "ok", "2.0 GB free"),
    ],
)
def test_room_on_the_disk(tmp_path, monkeypatch, free, verdict, words):
    usage = namedtuple("usage", "free")(free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = premises.room(tmp_path)
    assert (said.verdict, said.found[: len(words)]) == (verdict, words)
    assert bool(said.remedy) == (verdict != "ok")


def test_a_process_in_the_folder_is_named(folder):
    assert premises.process(folder.path).found == "no process works in this folder now"
    with take(folder.lock, what="it"):
        assert premises.process(folder.path).found == f"process {os.getpid()} works in this folder now"


def test_what_the_policy_gives_up(folder):
    assert premises.rules(folder).verdict == "ok"
    said = premises.rules(_again(folder, "allow_unprotected = false", "allow_unprotected = true"))
    assert (said.verdict, said.remedy) == ("warn", "set policy.allow_unprotected = false in site.toml")
    said = premises.rules(_again(folder, "require_secure_aggregation = true", "require_secure_aggregation = false"))
    assert (said.verdict, said.remedy) == ("warn", "set policy.require_secure_aggregation = true in site.toml")


def test_versions_are_told():
    assert f"torch {torch.__version__}" in premises.versions().found


def test_the_device(folder, monkeypatch):
    assert machine.device(folder).found == "cpu, as device = 'cpu' says"
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="expected a device cuda on this machine, found 0 of cuda"):
            machine.device(_again(folder, 'device = "cpu"', 'device = "cuda"'))
    monkeypatch.setattr(machine, "pick_device", lambda name: torch.device("cuda:0"))
    for free, verdict in ((2**29, "warn"), (2**31, "ok")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2**33))
        said = machine.device(folder)
        assert (said.verdict, said.found) == (verdict, f"cuda:0, {free / 2**30:.1f} of 8.0 GiB free")


@pytest.mark.parametrize(("free", "verdict"), [(2**20 - 1, "warn"), (2**20, "ok")])
def test_memory(tmp_path, monkeypatch, free, verdict):
    told = tmp_path / "meminfo"
    told.write_text(f"MemFree:  1 kB\nMemAvailable:   {free} kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", told)
    assert machine.memory().verdict == verdict
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "none")
    assert machine.memory().found == "this system does not tell how much is free"


# certificates


def _certified(folder: Folder, *, lifetime: timedelta = timedelta(days=90)) -> Keys:
    """Keys of an authority of this test, with a certificate of the folder's partner."""
    key, authority = certificates.make_authority(name="authority", lifetime=timedelta(days=400))
    shutil.rmtree(folder.keys)
    keys = Keys.make(folder.keys, authority=authority, server=folders.identity_of(folders.SIGNING))
    keys.keep(
        certificates.issue(
            authority_key=key, authority=authority, request=keys.request("a"), role=Role.PARTNER, name="a",
            lifetime=lifetime,
        )
    )  # fmt: skip
    return keys


@pytest.mark.parametrize(
    ("days", "verdict", "words"),
    [(-2, "FAIL", "not valid before"), (0, "ok", "of a, until"), (79, "ok", "of a"), (81, "warn", "ends"),
     (91, "FAIL", "expired")],
)  # fmt: skip
def test_a_certificate_is_in_date(folder, days, verdict, words):
    keys, now = _certified(folder), datetime.now(UTC)
    said = papers.certificate(keys, now=now + timedelta(days=days))
    assert (said.verdict, said.found[: len(words)]) == (verdict, words)
    assert bool(said.remedy) == (verdict != "ok")
    if verdict == "FAIL":
        assert f"{now + timedelta(days=days):%Y-%m-%d %H:%M} UTC" in said.found
    assert papers.authority(keys, now=now).verdict == "ok"
    assert papers.authority(keys, now=now + timedelta(days=399)).verdict == "warn"


def test_a_certificate_that_is_missing(folder):
    with pytest.raises(BadInput, match="found none yet"):
        papers.certificate(Keys(folder.keys))


# the way to the server


def _at(folder: Folder, port: int, *, host: str = HOST) -> Folder:
    return _again(folder, "fl.example.org:9443", f"{host}:{port}")


@contextmanager
def _listening() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(8)
        yield listener


@contextmanager
def _answering(answer, *, count: int = 1) -> Iterator[int]:
    """A port where `answer` gets so many connections."""
    with _listening() as listener:

        def work() -> None:
            for _ in range(count):
                with listener.accept()[0] as opened:
                    answer(opened)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def test_a_name_that_nobody_knows(folder, monkeypatch):
    assert connection.name(_at(folder, 9)).found == "127.0.0.1, which needs no name service"

    def unknown(*where, **how):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(BadInput, match=r"expected an address of 127.0.0.1, found none: Name or service"):
        connection.name(Folder.open(folder.path))


def test_a_name_service_that_never_answers_is_not_waited_for(folder, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: over.wait(60) and [])
    monkeypatch.setattr(connection, "PATIENCE", 0.1)
    with pytest.raises(BadInput, match="no answer within"):
        connection.name(folder)
    over.set()


def test_a_port_where_nothing_listens_and_one_that_is_walled_off(folder, monkeypatch):
    with _listening() as listener:
        port = listener.getsockname()[1]
    folder = _at(folder, port)
    with pytest.raises(BadInput, match=f"server at {HOST}:{port}, found that nothing listens") as caught:
        connection.open_port(folder)
    assert "tacit-server up" in caught.value.hint

    def silent(*where, **how):
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(BadInput, match="found no way there: no answer within 10 s") as caught:
        connection.open_port(folder)
    assert "firewall" in caught.value.hint


def _greets(opened: socket.socket) -> None:
    opened.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    opened.recv(10_000)


def _hangs_up(opened: socket.socket) -> None:
    opened.recv(10_000)


@pytest.mark.parametrize(("answer", "found"), [(_greets, "wrong version number"), (_hangs_up, "")])
def test_another_service_on_the_port(folder, answer, found):
    keys = _certified(folder)
    with (
        _answering(answer) as port,
        pytest.raises(BadInput, match=f"handshake with .*{port}, found .*{found}") as caught,
    ):
        connection.handshake(_at(folder, port), keys)
    assert "is it a tacit server that listens there?" in caught.value.hint


def test_a_port_that_says_nothing_is_not_waited_for(folder, monkeypatch):
    keys, over = _certified(folder), threading.Event()
    monkeypatch.setattr(connection, "PATIENCE", 0.2)
    with _answering(lambda opened: over.wait(10)) as port:
        with pytest.raises(BadInput, match=r"handshake with .*, found no answer within"):
            connection.handshake(_at(folder, port), keys)
        over.set()


def _server(
    place: Path, *, lifetime: timedelta, host: str, now: datetime | None = None
) -> tuple[bytes, ssl.SSLContext]:
    """The authority of another federation, and its gateway's side of TLS."""
    key, authority = certificates.make_authority(name="authority", lifetime=timedelta(days=400))
    own = certificates.make_key()
    issued = certificates.issue(
        authority_key=key, authority=authority, request=certificates.make_request(own, name="gateway"),
        role=Role.GATEWAY, name="gateway", lifetime=lifetime, hosts=(host,), now=now,
    )  # fmt: skip
    keyfile.write(place / "own.key", own)
    keyfile.write(place / "own.pem", issued)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "own.pem", place / "own.key")
    return authority, context


@pytest.mark.parametrize(
    ("host", "found", "hint"),
    [
        ("elsewhere", "one that this federation did not issue", "ask its operator for a new invitation"),
        (HOST, "one that is not in date", "clock"),
        ("192.0.2.1", "one for another address", "as the invitation had it"),
    ],
)
def test_a_server_whose_certificate_is_not_taken(folder, tmp_path, host, found, hint):
    keys = _certified(folder)
    now = datetime.now(UTC) - timedelta(days=9) if host == HOST else None
    authority, context = _server(tmp_path, lifetime=timedelta(days=1), host=host, now=now)
    if host != "elsewhere":
        keys.authority = authority

    def answer(opened: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(opened, server_side=True)

    with _answering(answer) as port, pytest.raises(BadInput, match=found) as caught:
        connection.handshake(_at(folder, port), keys)
    assert hint in caught.value.hint


def test_a_server_that_takes_no_certificate_of_ours(folder, tmp_path):
    keys = _certified(folder)
    keys.authority, context = _server(tmp_path, lifetime=timedelta(days=1), host=HOST)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=keys.authority.decode())

    def answer(opened: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(opened, server_side=True)

    with _answering(answer) as port, pytest.raises(BadInput, match=r"handshake with .*, found .*unknown ca"):
        connection.handshake(_at(folder, port), keys)


@given(off=st.integers(-100_000, 100_000))
def test_the_clock_beside_the_servers(off):
    said = connection.clock(Greeted(1e9, None, b""), now=lambda: 1e9 + off)
    assert said.verdict == ("FAIL" if abs(off) > 3600 else "warn" if abs(off) > 60 else "ok")
    assert ("ahead of" if off > 0 else "behind") in said.found
    assert bool(said.remedy) == (said.verdict != "ok")


# the data


def _text(folder: Folder, tmp_path: Path, rows: list[tuple[str, str]]) -> Folder:
    made = folders.write_csv(tmp_path / "rows.csv", rows=rows)
    return _again(folder, str(tmp_path / "data.npz"), str(made))


def test_data_that_is_sound(folder):
    said = holdings.data(folder)
    assert said.found == "90 examples of 3 classes"
    assert holdings.balance(said.value).verdict == holdings.size(folder, said.value).verdict == "ok"


def test_data_that_can_not_be_read(folder, tmp_path):
    (tmp_path / "data.npz").unlink()
    with pytest.raises(BadInput, match=r"expected data at .*, found nothing there"):
        holdings.data(folder)
    with pytest.raises(BadInput, match="expected a column 'diagnosis'"):
        holdings.data(
            _again(
                _text(folder, tmp_path, [("x", "0")] * 9),
                '# label = "diagnosis"',
                'input = "text"\nlabel = "diagnosis"',
            )
        )


def test_persons_are_counted(folder, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label,patient\n" + "".join(f"{i},{i % 2},{i % 60}\n" for i in range(120)))
    folder = _again(folder, str(tmp_path / "data.npz"), str(path))
    folder = _again(folder, '# unit = "patient_id"', 'input = "text"\nunit = "patient"')
    said = holdings.data(folder)
    assert said.found == "120 examples of 2 classes, 60 different patient"
    assert holdings.size(folder, said.value).found.startswith("60 different patient")


def test_sealed_data_and_its_key(folder, tmp_path):
    make_key(tmp_path / "seal.key")
    key = read_key(tmp_path / "seal.key")
    seal(tmp_path / "data.npz", out=None, lock=key, remove=True)
    folder = _again(folder, str(tmp_path / "data.npz"), str(tmp_path / "data.npz.sealed"))
    with pytest.raises(BadInput, match="sealed"):
        holdings.data(folder)
    folder = _again(folder, '# key = "keys/seal.key"', f'key = "{tmp_path / "seal.key"}"')
    assert holdings.data(folder).found == "90 examples of 3 classes, sealed"
    (tmp_path / "seal.key").unlink()
    make_key(tmp_path / "seal.key")
    with pytest.raises(BadInput, match="key"):
        holdings.data(folder)


def test_one_class_fails_and_a_rare_one_is_told(folder, tmp_path):
    found = holdings.data(_text(folder, tmp_path, [("secret words", "ill")] * 60)).value
    said = holdings.balance(found)
    assert (said.verdict, said.found) == ("FAIL", "all 60 examples are of the one class ill")
    rows = [("secret words", "ill")] * 198 + [("secret words", "well")]
    (tmp_path / "rows.csv").unlink()
    folders.write_csv(tmp_path / "rows.csv", rows=rows)
    said = holdings.balance(holdings.data(Folder.open(folder.path)).value)
    assert (said.verdict, said.found) == ("warn", "under 1% of the examples are of well")
    folders.write_csv(tmp_path / "rows.csv", rows=[*rows, ("secret words", "well")])
    assert holdings.balance(holdings.data(Folder.open(folder.path)).value).verdict == "ok"  # 2 of 200


def test_few_examples_and_too_few_for_the_delta(folder, tmp_path):
    few = _text(folder, tmp_path, [("x", "0"), ("y", "1")] * 24)
    assert holdings.size(few, holdings.data(few).value).verdict == "warn"
    strict = _again(few, "delta = 1e-05", "delta = 0.05")
    found = holdings.data(strict).value
    with pytest.raises(BadInput, match=r"expected policy.delta in site.toml below one over the 48 examples") as caught:
        holdings.size(strict, found)
    assert "set it to" in caught.value.hint


# the books


def _data(folder: Folder) -> Data:
    return holdings.data(folder).value


def _trained(folder: Folder, *, rounds: int = 1, event: Event = EVENT) -> None:
    """Leave the books as so many rounds do."""
    budget, audit, keys = open_budget(folder), Audit.of(folder), Keys(folder.keys)
    for number in range(1, rounds + 1):
        budget.reserve(Release("run", number, 1, event))
        audit.write("released", {"round": number})
    Marks(folder.mark, secret=keys.ledger, ledger=budget, audit=audit).now()
    budget.close()


def _looked(folder: Folder) -> tuple[books.Budget, Keys]:
    keys = Keys(folder.keys)
    return books.ledger(folder, keys, _data(folder)).value, keys


def test_looking_at_books_that_are_not_there_makes_none(folder):
    budget, keys = _looked(folder)
    assert books.remains(folder, budget).found == "epsilon 0.000 of 8 spent at delta 1e-05"
    assert books.audit(folder, keys).found == "0 lines, unbroken"
    assert not folder.ledger.exists()
    assert not folder.audit.exists()


def test_books_that_are_sound(folder):
    _trained(folder)
    keys = Keys(folder.keys)
    said = books.ledger(folder, keys, _data(folder))
    assert said.found == "2 rows, each as it was written"
    assert books.remains(folder, said.value).verdict == "ok"
    greeted = Greeted(0.0, None, folder.mark.read_bytes())
    assert books.server_mark(keys, greeted, said.value, books.audit(folder, keys).value).verdict == "ok"
    assert "had no answer" in books.server_mark(keys, Greeted(0.0, None, b""), said.value, None).found


def test_a_row_that_was_edited(folder):
    _trained(folder)
    with sqlite3.connect(folder.ledger) as db:
        db.execute("UPDATE entry SET round = 7 WHERE seq = 2")
    with pytest.raises(BadInput, match="found row 2 changed") as caught:
        _looked(folder)
    assert "newest untouched copy" in caught.value.hint


def test_an_older_ledger_and_log(folder, tmp_path):
    _trained(folder)
    for path in (folder.ledger, folder.audit):
        shutil.copy(path, tmp_path / path.name)
    _trained(folder)
    new, keys = folder.mark.read_bytes(), Keys(folder.keys)
    shutil.copy(tmp_path / "ledger.db", folder.ledger)
    with pytest.raises(Behind, match="expected the ledger that this partner last answered with"):
        books.ledger(folder, keys, _data(folder))
    shutil.copy(tmp_path / "audit.log", folder.audit)
    with pytest.raises(Behind, match="expected the audit log that this partner last answered with"):
        books.audit(folder, keys)
    folder.mark.unlink()  # then only the server knows
    budget, log = books.ledger(folder, keys, _data(folder)).value, books.audit(folder, keys).value
    with pytest.raises(Behind):
        books.server_mark(keys, Greeted(0.0, None, new), budget, log)
    assert not folder.mark.exists()


def test_a_ledger_that_was_taken_away(folder):
    _trained(folder)
    folder.ledger.unlink()
    with pytest.raises(Behind):
        _looked(folder)


def test_data_that_the_ledger_does_not_know(folder, tmp_path):
    _trained(folder)
    folders.write_npz(tmp_path / "data.npz", n=90, seed=2)
    with pytest.raises(BadInput, match="expected the data that this partner's ledger knows") as caught:
        _looked(folder)
    assert "tacit-client data" in caught.value.hint


def test_a_budget_that_comes_to_its_end(folder):
    _trained(folder)
    budget, _ = _looked(folder)
    spent = books.policy.cost(folder.config.policy, budget.spent)
    for limit, verdict, words in (
        (spent * 1.2, "ok", "spent at delta 1e-05"),
        (spent * 1.05, "warn", "little is left"),
        (spent, "FAIL", "nothing is left"),
        (spent * 0.5, "FAIL", "nothing is left"),
    ):
        policy = folder.config.policy.model_copy(update={"epsilon_limit": limit})
        said = books.remains(Folder(folder.path, folder.config.model_copy(update={"policy": policy})), budget)
        assert (said.verdict, said.found.endswith(words)) == (verdict, True)
        assert bool(said.remedy) == (verdict != "ok")
    policy = folder.config.policy.model_copy(update={"max_rounds_per_day": 1})
    with pytest.raises(BadInput, match="expected at most 1 rounds of training in 24 hours"):
        books.remains(Folder(folder.path, folder.config.model_copy(update={"policy": policy})), budget)


def test_what_nothing_bounds_leaves_nothing(folder):
    open_folder = _again(folder, "allow_unprotected = false", "allow_unprotected = true")
    _trained(open_folder, event=Event(kind="none", sampling_rate=0.1, noise_multiplier=0.0, steps=5))
    assert books.remains(open_folder, _looked(open_folder)[0]).verdict == "ok"
    strict = _again(folder, "allow_unprotected = true", "allow_unprotected = false")
    assert books.remains(strict, _looked(strict)[0]).verdict == "FAIL"


def test_a_log_line_that_was_edited(folder):
    _trained(folder)
    folder.audit.write_bytes(folder.audit.read_bytes().replace(b"released", b"Released"))
    with pytest.raises(BadInput, match=r"found a line that was changed .* in line 1") as caught:
        books.audit(folder, Keys(folder.keys))
    assert "tacit-client audit" in caught.value.hint


# the others


def _named(folder: Folder) -> tuple[Keys, SignedRoster]:
    keys = Keys(folder.keys)
    found = cohort.stored(folder, keys).value
    assert found is not None
    return keys, found


def test_others_who_are_accepted(folder):
    keys, kept = _named(folder)
    said = cohort.accepted(folder, kept, kept)
    assert (said.verdict, said.found) == ("ok", "3 accepted, this partner among them, of 3 that site.toml asks for")
    assert cohort.listed(folder, keys, Greeted(0.0, kept, b"")).verdict == "ok"
    assert cohort.accepted(folder, None, None).verdict == "ok"  # no list at all


def test_too_few_accepted(folder):
    _, kept = _named(folder)
    peers.remove(folder.peers, "b")
    said = cohort.accepted(folder, kept, kept)
    assert (said.verdict, said.found[:10]) == ("FAIL", "2 accepted")
    assert said.remedy.endswith(f"tacit-client peers {folder.path} accept b")
    assert not said.remedy.startswith("fetch")
    assert cohort.accepted(folder, None, kept).remedy.startswith("fetch the list by starting tacit-client run")
    loose = _again(folder, "require_secure_aggregation = true", "require_secure_aggregation = false")
    assert cohort.accepted(loose, kept, kept).verdict == "warn"


def test_an_accepted_one_that_left_does_not_count(folder):
    _, kept = _named(folder)
    left = folders.signed({name: key for name, key in kept.peers.items() if name != "b"}, version=2)
    said = cohort.accepted(folder, kept, left)
    assert (said.verdict, said.remedy) == ("FAIL", "wait until the operator has invited more partners")


def test_a_changed_key_is_an_alarm(folder):
    keys, kept = _named(folder)
    other = folders.identity_of(folders.Secret(bytes(32)))
    changed = folders.signed({**kept.peers, "b": other}, version=2)
    said = cohort.accepted(folder, kept, changed)
    assert (said.verdict, said.found[:50]) == ("FAIL", "ALARM: the server names another key than the accepted one"[:50])
    own = folders.signed({**kept.peers, "a": other}, version=2)
    with pytest.raises(BadInput, match="ALARM: expected this partner's own key"):
        cohort.listed(folder, keys, Greeted(0.0, own, b""))


def test_trusting_is_told(folder):
    keys, kept = _named(folder)
    peers.remove(folder.peers, "b")
    folder = _again(folder, "trust_new_peers = false", "trust_new_peers = true")
    assert cohort.accepted(folder, kept, kept).verdict == "warn"
    alone = folders.signed({"a": keys.public}, version=2)
    assert cohort.accepted(folder, kept, alone).verdict == "FAIL"


def test_a_list_that_is_older_or_not_signed(folder):
    keys, kept = _named(folder)
    folders.name_peers(folder, kept.peers, version=5)
    with pytest.raises(BadInput, match="of version 5 or later, found version 1"):
        cohort.listed(folder, keys, Greeted(0.0, kept, b""))
    forged = SignedRoster(9, kept.peers, Signature(bytes(64)))
    with pytest.raises(BadInput, match="found a wrong signature"):
        cohort.listed(folder, keys, Greeted(0.0, forged, b""))
    assert cohort.stored(folder, keys).found.startswith("version 5")
    folder.roster.write_text(folder.roster.read_text().replace("version = 5", "version = 6"))
    with pytest.raises(BadInput, match="found a wrong signature"):
        cohort.stored(folder, keys)
