"""What of a table never gets past its reader: columns dropped, and values under a pseudonym."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from tacit.data import labels
from tacit.data.source import listed
from tacit.errors import BadInput

__all__ = ["Screen"]


@dataclass(frozen=True, repr=False)
class Screen:
    """The columns that a partner keeps to itself, also from its own training.

    Attributes:
        drop: columns that are not kept.
        pseudonymise: columns of which only a keyed hash of each value is kept.
        secret: of that hash; not empty where there is a column to pseudonymise.

    Raises:
        BadInput: a column both dropped and pseudonymised, or pseudonyms without a secret.

    Guarantee: of a dropped column nothing, and of a pseudonymised one pseudonyms alone, is in what a reader gives or
    keeps. A pseudonym is HMAC-SHA-256 (RFC 2104) of the value under the secret: who does not have the secret can
    neither find the value nor tell whether a guessed one is it; equal values have equal pseudonyms.
    """

    drop: frozenset[str] = frozenset()
    pseudonymise: frozenset[str] = frozenset()
    secret: bytes = b""

    def __post_init__(self) -> None:
        if both := sorted(self.drop & self.pseudonymise):
            raise BadInput(
                f"expected a column to be dropped or pseudonymised, found {both[0]!r} in both lists",
                hint="drop it if nothing needs it",
            )
        if self.pseudonymise and not self.secret:
            raise BadInput("expected a secret for pseudonyms, found none", hint="give at least one byte")

    def value(self, name: str, value: object) -> object:
        """What is kept of `value` in column `name`, which must not be dropped: a missing one stays missing."""
        if name not in self.pseudonymise or labels.missing(value):
            return value
        return hmac.digest(self.secret, labels.text(value).encode(), "sha256")[:16].hex()

    def check(self, names: tuple[str, ...], *, place: str) -> None:
        """Raises BadInput where a column that is screened is not among `names`, those that there are."""
        for name in sorted(self.drop | self.pseudonymise):
            if name not in names:
                raise BadInput(
                    f"expected a column {name!r} to drop or pseudonymise, found {listed(names)} in {place}",
                    hint="correct drop or pseudonymise: a misspelt name would leave the column in",
                )

    def shows(self, name: str) -> bool:
        """Whether column `name` may be learnt from."""
        return name not in self.drop | self.pseudonymise

    def check_use(self, *, input: tuple[str, ...], label: tuple[str, ...], columns: tuple[str, ...]) -> None:  # noqa: A002 - the keys of a partner's [data]
        """Raises BadInput where one of these names, as which columns are used, does not go with the lists."""
        for what, names in (("input", input), ("label", label), ("column to keep", columns)):
            for name in names:
                if name in self.drop or (name in self.pseudonymise and what != "column to keep"):
                    listed_in = "drop" if name in self.drop else "pseudonymise"
                    raise BadInput(
                        f"expected as {what} a column that is read as it is, found {name!r} in {listed_in}",
                        hint=f"take it out of {listed_in}, or name another {what}",
                    )
