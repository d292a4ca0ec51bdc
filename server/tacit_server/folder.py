"""The server's folder: what lies where.

server.toml     the operator's decisions
keys/           the authority, the gateway's key and certificate, the key that signs rosters, jobs and statements, the
                key that seals checkpoints; mode 0700
roster.db       invitations, partners, nodes
runs/NAME/      one run
state/          of the running processes
logs/
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from tacit.errors import BadInput
from tacit.link import keyfile
from tacit_server.config import ServerConfig

__all__ = ["Folder"]


class Folder:
    """Names the places below one path; reads nothing but `server.toml`, once.

    Args:
        path: the folder, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.config_path = self.path / "server.toml"
        self.keys = self.path / "keys"
        self.authority_key = self.keys / "authority.key"
        self.authority = self.keys / "authority.pem"
        self.gateway_key = self.keys / "gateway.key"
        self.gateway = self.keys / "gateway.pem"
        self.signing_key = self.keys / "signing.key"
        self.seal_key = self.keys / "seal.key"
        self.roster_path = self.path / "roster.db"
        self.runs = self.path / "runs"
        self.state = self.path / "state"
        self.up_lock = self.state / "up.lock"
        self.flower = self.state / "flower"
        self.flower_db = self.state / "flower.db"
        self.superlink = self.state / "superlink.json"
        self.spool = self.state / "spool"
        self.logs = self.path / "logs"

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r})"

    @classmethod
    def open(cls, path: Path) -> Folder:
        """The server folder at `path`, checked.

        Guarantee: keys that others may read are not used.

        Raises:
            BadInput: no server folder, a bad `server.toml`, a key that is missing or open to others.
        """
        folder = cls(path)
        if not folder.config_path.exists():
            raise BadInput(
                f"expected a server folder at {path}, found no server.toml in it",
                hint=f"make one with tacit-server init {path} --host NAME",
            )
        _ = folder.config
        if folder.keys.is_dir() and not folder.signing_key.exists():
            raise BadInput(
                f"expected the server's signing key at {folder.signing_key}, found none: lost, or the folder is older",
                hint="restore it from a backup; where there never was one, make another folder with tacit-server init, "
                "and invite every partner anew",
            )
        for file in (folder.keys, *folder.secrets, folder.authority, folder.gateway):
            keyfile.check_mode(file)
        return folder

    @cached_property
    def config(self) -> ServerConfig:
        """What stands in `server.toml`, read once. Raises BadInput."""
        return ServerConfig.load(self.config_path)

    @property
    def secrets(self) -> tuple[Path, ...]:
        """The files that must stay here: whoever has them is the server."""
        return self.authority_key, self.gateway_key, self.signing_key, self.seal_key
