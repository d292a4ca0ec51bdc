"""What a partner hears when it comes: the signed roster, the server's clock, and the mark that is kept for it."""

from __future__ import annotations

import threading
import time

from tacit.link import keyfile, link_pb2
from tacit.link.roster import SignedRoster, federation_of
from tacit_server.folder import Folder
from tacit_server.refusals import own_files
from tacit_server.roster import Roster

__all__ = ["Welcomes"]


class Welcomes:
    """Makes welcomes; safe for threads.

    Args:
        folder: the server's, whose signing key is read for every new version of the roster.
        roster: the server's.
    """

    def __init__(self, folder: Folder, roster: Roster) -> None:
        self._folder, self._roster = folder, roster
        self._lock = threading.Lock()
        self._last: SignedRoster | None = None

    def roster(self) -> link_pb2.SignedRoster:
        """The roster of this moment, signed. Raises Unusable where the server's own files can not be used."""
        with own_files(), self._lock:  # hundreds of partners may come at once, for one version
            version, peers = self._roster.members()
            if self._last is None or (self._last.version, self._last.peers) != (version, peers):
                key, authority = keyfile.read_key(self._folder.signing_key), self._folder.authority.read_bytes()
                federation = federation_of(authority)
                self._last = SignedRoster.sign(peers, version=version, federation=federation, key=key)
            return self._last.pack()

    def welcome(self, partner: str, *, node: int) -> link_pb2.Welcome:
        """For `partner`, whose session is Flower's `node`; 0 for none. Raises as `roster`."""
        mark = self._roster.mark(partner)
        return link_pb2.Welcome(node=node, clock=time.time(), roster=self.roster(), mark=mark)
