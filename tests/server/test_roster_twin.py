"""The roster beside a twin made of plain dictionaries: any order of calls, the same verdicts."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tacit.errors import BadInput
from tacit.link.certificates import Role, Subject
from tacit.secagg.keys import PublicKey
from tacit_server.roster import Refused, Roster

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _key(text):
    return PublicKey(text.encode().ljust(32))


def _enrol(roster, name="a", *, invitation="i", identity="A", key="k", certificate="c", now=NOW):
    roster.enrol(
        name=name,
        invitation=invitation,
        identity=_key(identity),
        key_hash=key,
        certificate_fingerprint=certificate,
        now=now,
    )


def _subject(name="a", *, certificate="c"):
    return Subject(Role.PARTNER, name, certificate, NOW - 24 * HOUR, NOW + 24 * HOUR)


NAMES, CERTIFICATES = st.sampled_from("ab"), st.sampled_from("cde")


class AgainstATwin(RuleBasedStateMachine):
    """Any order of calls, beside a twin made of plain sets."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.roster = Roster(Path(self.folder.name) / "roster.db", clock=lambda: 0.0)
        self.open, self.used, self.owner = {}, {}, {}
        self.active, self.nodes = {}, {}
        self.count = self.version = 0

    def _tries(self, allowed, act):
        try:
            act()
        except (Refused, BadInput):
            assert not allowed
            return False
        assert allowed
        return True

    @rule(name=NAMES)
    def invite(self, name):
        mark, self.count = f"i{self.count}", self.count + 1
        allowed = name not in self.active
        if self._tries(allowed, lambda: self.roster.invite(name, fingerprint=mark, expires=NOW + HOUR)):
            self.open[name] = mark
            self.used.pop(name, None)

    @rule(
        name=NAMES,
        identity=st.sampled_from("AB"),
        key=st.sampled_from("kl"),
        certificate=CERTIFICATES,
        late=st.booleans(),
    )
    def enrol(self, name, identity, key, certificate, late):
        again = name in self.used and self.used[name][1:] == (identity, key)
        first = name in self.open and self.owner.get(identity, name) == name
        mark = self.open.get(name) or self.used.get(name, ("none",))[0]
        now = NOW + HOUR if late else NOW
        if self._tries(
            (again or first) and not late,
            lambda: _enrol(
                self.roster, name, invitation=mark, identity=identity, key=key, certificate=certificate, now=now
            ),
        ):
            before = self.active.get(name, (None, None, None))[1] if again else None
            self.active[name] = (identity, certificate, before)
            if not again:
                self.version += 1
                self.used[name] = (self.open.pop(name), identity, key)
                self.owner[identity] = name

    @rule(name=NAMES, old=CERTIFICATES, new=CERTIFICATES)
    def renew(self, name, old, new):
        known = self.active.get(name, (None, None, None))
        if self._tries(old in known[1:], lambda: self.roster.renew(name, old=old, new=new)):
            self.active[name] = (known[0], new, old)

    @rule(name=NAMES)
    def remove(self, name):
        if self._tries(name in self.active or name in self.open, lambda: self.roster.remove(name)):
            for each in (self.active, self.open, self.used, self.nodes):
                each.pop(name, None)
            self.version += 1

    @rule(name=NAMES, node=st.integers(1, 2))
    def node(self, name, node):
        taken = any(node == other for owner, other in self.nodes.items() if owner != name)
        allowed = name in self.active and not taken
        if self._tries(allowed, lambda: self.roster.node(name, session="s", node=node, now=NOW)):
            self.nodes[name] = node

    @invariant()
    def both_agree(self):
        assert self.roster.version() == self.version
        rows = {row.name: row for row in self.roster.partners()}
        assert {name for name, row in rows.items() if row.state == "active"} == set(self.active)
        assert {name for name, row in rows.items() if row.state == "invited"} == set(self.open)
        nodes = {node: (name, _key(self.active[name][0])) for name, node in self.nodes.items()}
        assert self.roster.nodes() == nodes
        for name in "ab":
            for certificate in "cde":
                allowed = certificate in self.active.get(name, ())[1:]
                self._tries(
                    allowed,
                    lambda name=name, certificate=certificate: self.roster.admit(
                        _subject(name, certificate=certificate), now=NOW
                    ),
                )

    def teardown(self):
        self.roster.close()
        self.folder.cleanup()


TestAgainstATwin = AgainstATwin.TestCase
TestAgainstATwin.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
