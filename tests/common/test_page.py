"""The page: self-contained, rounded up, and nothing that a party wrote is markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from stated import SERVER, partner, resigned, server

from tacit.page import Account, page


class _Outline(HTMLParser):
    """Which elements stand open, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _outline(*args, **rest) -> _Outline:
    found = _Outline(page(*args, **rest).decode())
    assert found.open == []
    assert {"script", "img", "link", "iframe", "b-script"}.isdisjoint(found.tags)
    assert not {"src", "href", "onclick"} & set(found.attributes)
    return found


def test_a_partners_page(make_job):
    value = partner(make_job(), "a")
    value["privacy"]["epsilon"] = 2.3400001
    found = _outline(value)
    for words in ("What was done", "With whom", "What it cost", "What it holds against", "What it does not cover"):
        assert words in found.text
    assert "ε = 2.35 at δ = 0.0001, for one row of data" in found.text
    assert "reserved, not finished; counted all the same" in found.text
    assert value["signature"] in found.text
    assert "counts over held-out examples" in found.text
    assert "Over all runs" not in found.text


def test_the_partners_own_page_has_its_budget_too(make_job):
    value = partner(make_job(), "a")
    text = _outline(value, account=Account(spent=3.001, limit=8.0, delta=1e-5)).text
    assert re.search(r"Over all runs this partner's data has cost ε = 3\.01\s+of 8\.0 at δ = 1e-05", text)
    assert "more than any ε bounds" in _outline(value, account=Account(spent=None, limit=8.0, delta=1e-5)).text


def test_the_servers_page(make_job):
    text = _outline(server(make_job(), partner(make_job(), "a"))).text
    assert "none: was not connected at the end of the run" in text
    assert "accuracy 0.5, examples 10, loss –" in text
    assert "its own, signed" in text
    assert "dropped out in round 1" in text


def test_what_a_party_wrote_is_text(make_job):
    value = server(make_job(), partner(make_job(), "a"))
    assert "<b>spent</b>" in _outline(value).text
    value["parties"][0]["name"] = "<script>alert(1)</script>"
    assert "<script>alert(1)</script>" in _outline(resigned(value, by=SERVER)).text


def test_without_a_mechanism_nothing_is_promised(make_job):
    job = make_job("privacy={mechanism='none'}")
    for value in (partner(job, "a"), server(job, partner(job, "a"))):
        text = _outline(value).text
        assert "No privacy guarantee" in text
        assert "Nobody." in text
        assert "ε = " not in text


def test_a_long_run_is_cut_on_the_page_and_whole_in_the_file(make_job):
    value = partner(make_job("training.rounds=100"), "a", rounds=100)
    assert "and 60 more, all in the JSON file" in _outline(value).text
    assert len(value["releases"]) == 100
