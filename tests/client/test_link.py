"""The partner's end of the link: what it does with a message of a session that is over."""

from __future__ import annotations

import threading

import pytest

from tacit.errors import JobFailed
from tacit.link.link_pb2 import Envelope, Notice, Ticket, Welcome
from tacit_client.link import Link, Lost


@pytest.fixture
def link():
    made = Link(
        "127.0.0.1:9",
        lambda: (b"", b"", b""),
        device="",
        welcome=lambda _: None,
        left=lambda _: None,
        mark=lambda: b"",
        renew=lambda _: False,
    )
    made._here.set()  # as after the gateway's welcome
    yield made
    made.close()


def _found(work) -> list[str]:
    """What `work` says is lost, if it does not go on for ever."""
    found: list[str] = []

    def attempt() -> None:
        try:
            work()
        except Lost as error:
            found.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(5.0)
    return found


def test_an_answer_of_an_earlier_session_is_given_up(link):
    """The gateway would say for ever that this session does not attend, and nothing else would be answered."""
    old = Envelope(ticket=Ticket(session="0" * 32, message="m"))
    assert _found(lambda: link.give(old, lambda: [])) == ["it belongs to an earlier session"]


def test_a_message_of_an_earlier_session_is_not_taken(link):
    def take() -> None:
        with link.take(Ticket(session="0" * 32, message="m"), limit=1):
            raise AssertionError

    assert _found(take) == ["it belongs to an earlier session"]


def test_an_answer_is_not_given_by_a_partner_that_leaves(link):
    own = Envelope(ticket=Ticket(session=link._session, message="m"))
    assert _found(lambda: link.give(own, lambda: [])) == ["leaving"]


def test_nothing_is_taken_where_what_the_gateway_said_first_is_found_wanting(link, monkeypatch):
    """Guarantee: no message is taken before the ledger was compared with the mark that the server kept."""
    link._here.clear()
    heard: list[tuple[bytes, bool]] = []

    def behind(welcome: Welcome) -> None:
        heard.append((welcome.mark, link._here.is_set()))  # whoever takes a message waits for that
        raise JobFailed("expected a newer ledger, found an older one", hint="put the newest back")

    ticket = Ticket(session=link._session, message="m")
    monkeypatch.setattr(link, "_welcome", behind)
    notices = [Notice(waiting=ticket), Notice(welcome=Welcome(node=1, mark=b"mark")), Notice(waiting=ticket)]
    monkeypatch.setattr(link, "_stream", lambda: notices)
    link._attend()
    assert heard == [(b"mark", False)]
    with pytest.raises(JobFailed, match="expected a newer ledger"):
        link.next(timeout=1.0)
    with pytest.raises(Lost), link.take(ticket, limit=1):
        pass
