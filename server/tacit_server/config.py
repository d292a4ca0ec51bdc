"""`server.toml`: what the operator decides about the federation's one open port and its members."""

from __future__ import annotations

import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tacit.check import contradiction, parse
from tacit.errors import BadInput
from tacit.link.names import check_host, join_address

__all__ = ["ServerConfig"]

_CENTURY = 36_500.0  # days; beyond, dates leave the calendar


class ServerConfig(BaseModel):
    """The keys of `server.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    host: str
    """The name or address by which partners reach this machine; stands in the gateway's certificate."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 9443
    """Of the gateway."""
    listen: str = "0.0.0.0"
    """The address of this machine on which the gateway listens; 0.0.0.0 and :: are all of them."""
    invitation_hours: Annotated[float, Field(gt=0.0, le=8_760.0)] = 24.0
    """How long an invitation can be used: a file that lies about should not stay a way in."""
    partner_days: Annotated[float, Field(gt=0.0, le=_CENTURY)] = 90.0
    """Life of a partner's certificate, which it renews by itself while it takes part; one that stays away for longer
    is invited anew."""
    gateway_days: Annotated[float, Field(gt=0.0, le=_CENTURY)] = 90.0
    """Life of the gateway's certificate, which it renews by itself."""
    max_partners: Annotated[int, Field(ge=1, le=100_000)] = 500
    """Active partners at a time."""
    grace: Annotated[float, Field(ge=0.0, le=3_600.0)] = 10.0
    """Seconds for which a partner whose connection is lost keeps its place in a round."""

    @field_validator("host")
    @classmethod
    def _reachable(cls, host: str) -> str:
        try:
            return check_host(host)
        except BadInput as error:
            raise contradiction(error.message.replace("expected", "expected host as", 1), hint=error.hint) from None

    @field_validator("listen")
    @classmethod
    def _own(cls, listen: str) -> str:
        try:
            return str(ip_address(listen))
        except ValueError:
            raise contradiction(
                f"expected listen as an IP address, found {listen[:80]!r}", hint="write 0.0.0.0, or one of this machine"
            ) from None

    @property
    def address(self) -> str:
        """host:port, as it stands in invitations."""
        return join_address(self.host, port=self.port)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The config in the file `path`. Raises BadInput: unreadable, not TOML, unknown key, value out of range."""
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"expected to read {path}, found {error.strerror}", hint="check the path") from None
        except (ValueError, RecursionError) as error:  # bad TOML and bad UTF-8; numbers and brackets without end
            raise BadInput(f"expected TOML in {path}, found {error}", hint="mend that line") from None
        return parse(cls, raw, where=path.name)

    def write(self, path: Path) -> None:
        """Put these values at `path`, each with its comment. Raises BadInput where it can not be written."""
        try:
            path.write_text(self._commented(), encoding="utf-8")
        except OSError as error:
            raise BadInput(
                f"expected to write {path}, found {error.strerror}",
                hint="check the folder's rights and the disk's space",
            ) from None

    def _commented(self) -> str:
        return f"""\
# A Tacit server. Changes take effect when tacit-server up is started again.

# By which partners reach this machine; a change gives the gateway a new certificate, and partners must be told.
host = "{self.host}"
port = {self.port}
# The address of this machine to listen on; 0.0.0.0 is every IPv4 one, :: every one.
listen = "{self.listen}"

# How long an invitation can be used.
invitation_hours = {self.invitation_hours}
# Life of certificates, which renew themselves. A partner that stays away for longer is invited anew.
partner_days = {self.partner_days}
gateway_days = {self.gateway_days}

max_partners = {self.max_partners}
# Seconds for which a partner whose connection is lost keeps its place in a round.
grace = {self.grace}
"""
