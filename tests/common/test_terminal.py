"""What every command shares: two lines on stderr, exit codes, no traceback unless asked for."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput, JobFailed, TacitError
from tacit.terminal import Parser, plain, run, verbose_flag


def _raise(error: BaseException) -> int:
    raise error


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.mark.parametrize("code", [0, 1])
def test_the_code_of_the_command_is_the_exit_code(capsys, code):
    assert run(lambda: print("result") or code, verbose=False) == code
    assert capsys.readouterr() == ("result\n", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [(BadInput("a", hint="b"), 2), (JobFailed("a", hint="b"), 1), (TacitError("a", hint="b"), 1)],
    ids=["bad input", "failed", "other"],
)
def test_an_error_is_two_lines_and_its_exit_code(capsys, error, code):
    assert run(lambda: _raise(error), verbose=False) == code
    assert capsys.readouterr() == ("", "error: a\nhint: b\n")


def test_what_the_system_refuses_is_two_lines_too(capsys):
    assert run(lambda: len(os.listdir("/nowhere/at all")), verbose=False) == 1
    out, err = capsys.readouterr()
    error, hint = err.splitlines()
    assert (out, error.startswith("error: expected ")) == ("", True)
    assert error.endswith("found: No such file or directory at /nowhere/at all")
    assert hint.startswith("hint: check the rights")
    assert run(lambda: _raise(TimeoutError()), verbose=True) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert "found: TimeoutError\n" in err


def test_a_message_of_several_lines_is_one_line(capsys):
    run(lambda: _raise(BadInput("a\n  b", hint="c\td")), verbose=False)
    assert capsys.readouterr().err == "error: a b\nhint: c d\n"


@given(st.text())
def test_no_text_moves_the_cursor(text):
    assert plain(text).isprintable() or plain(text) == ""
    assert plain(plain(text)) == plain(text)


def test_an_escape_in_a_message_shows_as_such(capsys):
    run(lambda: _raise(BadInput("a \x1b[2Jb", hint="c\x07")), verbose=False)
    assert capsys.readouterr().err == "error: a \N{REPLACEMENT CHARACTER}[2Jb\nhint: c\N{REPLACEMENT CHARACTER}\n"


def test_a_traceback_comes_with_verbose_only(capsys):
    assert run(lambda: _raise(BadInput("a", hint="b")), verbose=True) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("error: a\nhint: b\n")


def test_an_interrupt_is_130_with_the_command_s_own_hint(capsys):
    assert run(lambda: _raise(KeyboardInterrupt()), verbose=False, interrupted="go on") == 130
    assert capsys.readouterr().err == "error: interrupted\nhint: go on\n"


def test_an_error_of_ours_that_nobody_foresaw_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0, verbose=False)


def test_nothing_is_sent_to_flower(monkeypatch):
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert run(lambda: int(os.environ["FLWR_TELEMETRY_ENABLED"]), verbose=False) == 0


def test_bad_usage_is_bad_input_also_below_a_command(capsys):
    parser = Parser(prog="tool")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    commands.add_parser("go", parents=[verbose_flag()])
    assert parser.parse_args(["go", "--verbose"]).verbose
    wrong = {(): "tool", ("fly",): "tool", ("go", "--fast"): "tool", ("go", "x"): "tool"}
    for argv, program in wrong.items():
        assert run(lambda argv=argv: bool(parser.parse_args(argv)), verbose=False) == 2
        message, hint = capsys.readouterr().err.splitlines()
        assert message.startswith("error: expected a command line as in --help, found that ")
        assert hint == f"hint: see {program} --help"
    assert len(wrong) == 4


def test_a_reader_that_leaves_early_sees_no_traceback():
    code = "from tacit.terminal import run; raise SystemExit(run(lambda: print('x' * 10**6) or 0, verbose=False))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 1
