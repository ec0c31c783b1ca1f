"""Where workers run, in an operator's words."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

FORMS = "ray, ray:N as in ray:2, ray:MIN-MAX, ray://host:port, or http://host:port, several of them separated by commas"


@dataclass(frozen=True)
class WorkersPlace:
    """Where workers run; one of the following.

    Args:
        here: How many this server starts on its machine: the least and the most; zeros: as many as it has cores for.
        cluster: The address of a Ray cluster on which this server starts them, ``ray://host:port``.
        served: Addresses, ``http://host:port``, at which somebody else has them served.
    """

    here: tuple[int, int] | None = None
    cluster: str | None = None
    served: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> WorkersPlace:
        """Return the place that a text names.

        Raises:
            ValueError: If it names none.
        """
        if text == "ray":
            return cls(here=(0, 0))
        if text.startswith("ray://") and _is_address(text, "ray"):
            return cls(cluster=text)
        addresses = tuple(part.strip().rstrip("/") for part in text.split(","))
        if all(_is_address(address, "http", "https") for address in addresses):
            return cls(served=addresses)
        kind, _, counts = text.partition(":")
        least, dash, most = counts.partition("-")
        if kind == "ray" and _is_count(least) and (_is_count(most) if dash else True):
            bounds = int(least), int(most or least)
            if bounds[0] <= bounds[1]:
                return cls(here=bounds)
        raise ValueError(f"must be {FORMS}")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _is_address(text: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    is_bare = text == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
    return is_bare and parts.scheme in schemes and bool(parts.hostname) and (port is not None or "http" in parts.scheme)
