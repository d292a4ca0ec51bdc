"""The command tacit-client: what it prints, its exit codes, and nobody's traceback."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import change, make_folder, write_npz

from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_client import cli
from tacit_client.cli import main
from tacit_client.commands_join import _stop_on_signals
from tacit_client.holding import open_budget
from tacit_client.ledger import Release
from tacit_client.site import Folder

EVENT = Event(kind="dp-sgd", sampling_rate=0.02, noise_multiplier=1.0, steps=20)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_folder(tmp_path / "a", name="a", data=write_npz(tmp_path / "x.npz", n=20, seed=1), delta=1e-5)


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(arg) for arg in argv])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def quiet() -> Iterator[None]:
    """Puts back what `run` changes of this process."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)
    for name in ("tacit", "tacit_client"):
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("command", [[], ["join"], ["run"], ["peers"], ["budget"]])
def test_help(command: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage: tacit-client" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice"),
        (["join", "x.toml"], "required: --dir"),
        (["peers", "{}", "accept"], "expected a name after accept, found none"),
        (["peers", "{}", "remove", "b"], "expected an accepted peer, found b"),
        (["run", "nowhere"], "expected a partner's folder with a site.toml"),
        (["budget", "nowhere"], "expected a partner's folder with a site.toml"),
        (["peers", "nowhere"], "expected a partner's folder with a site.toml"),
        (["join", "nowhere.toml", "--dir", "{}-new"], "nowhere.toml"),
    ],
)
def test_bad_usage_is_two_lines_and_exit_code_2(folder, run, argv, said) -> None:
    code, out, err = run(*(word.format(folder.path) for word in argv))
    assert (code, out) == (2, "")
    error, hint = err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert hint.startswith("hint: ")


def test_a_command_imports_its_own_module_alone() -> None:
    """So that a small one starts small."""
    (every,) = [action.choices for action in cli._parser([])._actions if action.choices]
    assert set(every) == set(cli._COMMANDS)
    assert len(every) == 11


def test_join_passes_everything_on(monkeypatch, run, tmp_path) -> None:
    found: list[object] = []
    monkeypatch.setattr("tacit_client.join.join", lambda *args, **rest: found.extend([*args, rest]))
    assert run("join", "in.toml", "--dir", tmp_path, "--data", "x.csv", "--trust-new-peers")[0] == 0
    assert found == [Path("in.toml"), tmp_path, {"data": Path("x.csv"), "trust_new_peers": True}]
    assert run("join", "in.toml", "--dir", tmp_path)[0] == 0
    assert found[3:] == [Path("in.toml"), tmp_path, {"data": None, "trust_new_peers": False}]


def test_an_unspent_budget(run, folder) -> None:
    code, out, _ = run("budget", folder.path)
    assert (code, "epsilon 0.000 of 8 at delta 1e-05" in out, "no run has used the data" in out) == (0, True, True)
    assert json.loads(run("budget", folder.path, "--json")[1])["runs"] == []
    assert not folder.ledger.exists()


def test_what_was_spent_by_which_run_and_what_remains(run, folder) -> None:
    now = [0.0]
    budget = open_budget(folder, clock=lambda: now[0])
    for name, rounds in (("first", 3), ("second", 1)):
        for number in range(1, rounds + 1):
            budget.reserve(Release(run=name, round=number, attempt=1, event=EVENT))
            now[0] += 3600
    budget.close()
    found = json.loads(run("budget", folder.path, "--json")[1])
    spent = epsilon([EVENT] * 4, delta=1e-5)
    assert (found["name"], found["limit"], found["delta"]) == ("a", 8.0, 1e-5)
    assert found["spent"] == pytest.approx(spent)
    assert found["remaining"] == pytest.approx(8 - spent)
    first, second = found["runs"]
    assert (first["run"], first["releases"], first["last"]) == ("first", 3, "1970-01-01T02:00:00+00:00")
    assert second["epsilon"] == pytest.approx(epsilon([EVENT], delta=1e-5))
    out = run("budget", folder.path)[1]
    assert f"epsilon {spent:.3f} of 8" in out
    assert out.splitlines()[-1].startswith("second         1")


def test_unprotected_runs_have_no_epsilon(run, folder) -> None:
    change(folder.path, "allow_unprotected = false", "allow_unprotected = true")
    folder = Folder.open(folder.path)
    budget = open_budget(folder)
    event = Event(kind="none", sampling_rate=0.1, noise_multiplier=0.0, steps=5)
    budget.reserve(Release(run="open", round=1, attempt=1, event=event))
    budget.close()
    found = json.loads(run("budget", folder.path, "--json")[1])
    assert (found["spent"], found["unprotected_steps"], found["runs"][0]["epsilon"]) == (0.0, 5, None)
    change(folder.path, "allow_unprotected = true", "allow_unprotected = false")
    found = json.loads(run("budget", folder.path, "--json")[1])
    assert (found["spent"], found["remaining"]) == (None, 0.0)
    assert "epsilon without bound" in run("budget", folder.path)[1]


def test_run_answers_until_it_is_told_to_stop(run, folder, monkeypatch, quiet) -> None:
    seen: list[str] = []

    def serve(place, office, *, stop) -> None:
        seen.extend([str(place.path), office.device])
        logging.getLogger("tacit_client.node").info("connected")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)

    monkeypatch.setattr("tacit_client.node.run", serve)
    code, out, err = run("run", folder.path)
    assert (code, seen[0]) == (0, str(folder.path))
    assert out == f"a computes on {seen[1]}\n"
    assert "INFO connected" in err
    log = folder.logs / "client.log"
    assert "INFO read 20 examples" in log.read_text()
    assert (log.stat().st_mode & 0o777, folder.logs.stat().st_mode & 0o777) == (0o600, 0o700)
    run("run", folder.path)  # the folder is free again


def test_who_stops_it_is_told_that_the_answer_at_hand_is_finished_first(quiet, capfd) -> None:
    stop = _stop_on_signals()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "stopping; an answer at hand is finished first (Ctrl-C again does not wait)\n")


def test_a_second_process_is_refused(folder, quiet) -> None:
    hold = "import sys, time, pathlib\nfrom tacit.lock import take\nfrom tacit_client.site import Folder\n"
    hold += "with take(Folder.open(pathlib.Path(sys.argv[1])).lock, what='x'):\n    print(flush=True); time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", hold, folder.path], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        first.stdout.readline()
        code = "import sys; from tacit_client.cli import main; sys.exit(main())"
        argv = [sys.executable, "-c", code, "run", folder.path]
        second = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 2
    assert f"found process {first.pid}" in second.stderr
    assert "hint: stop that process" in second.stderr
    assert "Traceback" not in second.stderr
