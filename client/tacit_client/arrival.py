"""What a partner does with the gateway's welcome, at every connection, before it takes a message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from tacit.errors import BadInput, JobFailed
from tacit.link.enrolment import fingerprint
from tacit.link.link_pb2 import Welcome
from tacit.link.roster import SignedRoster
from tacit.terminal import plain
from tacit_client import peers, roster
from tacit_client.audit import Audit
from tacit_client.keys import Keys
from tacit_client.peers import Peer
from tacit_client.site import Folder

__all__ = ["Arrival"]

_log = logging.getLogger(__name__)


class Arrival:
    """The welcomes of one process.

    Args:
        folder: the partner's.
        keys: in it.
        audit: of it.
        recall: compares the mark that the server kept with the ledger; raises BadInput where that is behind it.

    Guarantee: a list of partners that is older, not the server's, or another one of the same version takes nothing's
    place; it, and a key that is not the accepted one, or not this partner's own, are told in the log and in the audit
    log. With a ledger that is behind, no message is taken.
    """

    def __init__(self, folder: Folder, *, keys: Keys, audit: Audit, recall: Callable[[bytes], None]) -> None:
        self._folder, self._keys, self._audit, self._recall = folder, keys, audit, recall
        self._told: set[str] = set()

    def welcome(self, welcome: Welcome) -> None:
        """Look at all that came. Raises JobFailed where this partner must not go on."""
        try:
            self._recall(welcome.mark)
        except BadInput as error:
            raise JobFailed(error.message, hint=error.hint) from None
        self._keep(welcome)
        self._note("connected", {"server": self._folder.config.server.address, "roster": welcome.roster.version})

    def left(self, reason: str) -> None:
        """The connection is gone."""
        self._note("disconnected", {"reason": plain(reason)[:500]})

    def _keep(self, welcome: Welcome) -> None:
        try:
            roster.keep(self._folder.roster, SignedRoster.unpack(welcome.roster), keys=self._keys)
        except BadInput as error:
            facts = {"reason": error.message, "version": welcome.roster.version}
            self._alarm(f"the server's list of partners is refused: {error.message}; {error.hint}", facts)
        self._compare()

    def _compare(self) -> None:
        """Look for accepted peers that the server names with another key, and for this partner itself."""
        own = self._folder.config.name
        try:
            named = roster.named(self._folder.roster, keys=self._keys)
            found = peers.overview(self._folder.peers, named=named)
        except BadInput as error:
            _log.error("peers were not compared: %s; %s", error.message, error.hint)
            return
        itself = Peer(own, self._keys.public, named.get(own))
        for peer in (itself, *(peer for peer in found if peer.name != own)):
            if peer.state == "changed" and peer.named is not None and peer.accepted is not None:
                facts = {
                    "peer": peer.name, "accepted": fingerprint(peer.accepted), "named": fingerprint(peer.named),
                }  # fmt: skip
                whose = "this partner's own" if peer is itself else "the accepted one"
                said = f"the server names another key for {peer.name} than {whose}; it is not used"
                self._alarm(said, facts, event="peer-changed")

    def _alarm(self, said: str, facts: Mapping[str, Any], *, event: str = "roster-refused") -> None:
        """Once for each process and finding: connections come and go."""
        if said not in self._told:
            self._told.add(said)
            _log.error("ALARM: %s", said)
            self._note(event, facts)

    def _note(self, event: str, facts: Mapping[str, Any]) -> None:
        """A line that can not be kept is no reason to stay away: nothing is released by a connection."""
        try:
            self._audit.write(event, facts)
        except BadInput as error:
            _log.error("%s was not kept in the audit log: %s; %s", event, error.message, error.hint)
