"""API keys as they are stored: a name, roles, dates and a digest, never the key.

A key is 256 random bits, so it cannot be found from its plain SHA-256. Slow, salted hashes are needed for passwords
that people choose; here one would only make every request slower. For the same reason failed attempts are logged, but
neither delayed nor limited: the guesses that fit through a network are negligible compared with 2**256.

This file and :mod:`lib.server.auth.key_file` need nothing but Python, so that ``scripts/keys`` runs without ``.venv``.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

ROLES = ("user", "annotator", "reviewer", "admin")
"""MONAI Label's roles; its settings ``MONAI_LABEL_AUTH_ROLE_USER`` etc. hold their names in MONAI Label."""

_PREFIX = "sam_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class KeyFileError(ValueError):
    """The keys cannot be read or changed; the message gives the reason and a solution."""


@dataclass(frozen=True)
class ApiKey:
    """Stored entry of a key.

    Args:
        name: Who or what uses it. Results belong to the name, so a new key with the same name inherits them.
        roles: At least one of :data:`ROLES`; no role includes another.
        created: Time of creation, with time zone.
        expires: Time from which on the key is refused, with time zone; None: never.
        sha256: Digest of the key, 64 hexadecimal digits.

    Raises:
        KeyFileError: If one of them is not valid.
    """

    name: str
    roles: tuple[str, ...]
    created: datetime
    expires: datetime | None
    sha256: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise KeyFileError(f"{self.name!r} is not a valid name for a key: 1 to 64 letters, digits, '.', '_', '-'")
        unknown = [role for role in self.roles if role not in ROLES]
        if unknown or not self.roles:
            named = ", ".join(map(repr, unknown)) or "no role"
            raise KeyFileError(f"key {self.name!r} has {named}; the roles are: {', '.join(ROLES)}")
        if any(date is not None and date.tzinfo is None for date in (self.created, self.expires)):
            raise KeyFileError(f"key {self.name!r} has a date without a time zone")
        if not _DIGEST.fullmatch(self.sha256):
            raise KeyFileError(f"key {self.name!r} has no SHA-256 digest of 64 hexadecimal digits")

    def has_expired(self, now: datetime) -> bool:
        """Return whether the key has expired at a given time."""
        return self.expires is not None and now >= self.expires

    def as_json(self) -> dict[str, Any]:
        """Return the key's entry in the file, as JSON values."""
        return {
            "name": self.name,
            "roles": list(self.roles),
            "created": self.created.isoformat(timespec="seconds"),
            "expires": self.expires.isoformat(timespec="seconds") if self.expires else None,
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ApiKey:
        """Make a key from its entry in the file.

        Raises:
            KeyFileError: If a value is not valid.
            KeyError, TypeError, ValueError, AttributeError: If the entry has another form.
        """
        expires = entry["expires"]
        return cls(
            name=entry["name"],
            roles=tuple(entry["roles"]),
            created=datetime.fromisoformat(entry["created"]),
            expires=None if expires is None else datetime.fromisoformat(expires),
            sha256=entry["sha256"],
        )


def digest(key: str) -> str:
    """Return the SHA-256 digest of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(name: str, roles: Iterable[str], days: float | None) -> tuple[str, ApiKey]:
    """Make a new key, and return it with its entry for the file.

    Args:
        name: Who or what will use it.
        roles: Some of :data:`ROLES`.
        days: How long it is valid; None: for ever.

    Raises:
        KeyFileError: If one of them is not valid.
    """
    now = datetime.now(UTC)
    try:
        expires = None if days is None else now + timedelta(days=days)
    except (OverflowError, ValueError):
        raise KeyFileError(f"a key cannot be valid for {days} days") from None
    if expires is not None and expires <= now:
        raise KeyFileError("a key must be valid for more than 0 days")
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, ApiKey(name, tuple(dict.fromkeys(roles)), now, expires, digest(key))
