"""Where workers run, in an operator's words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkersPlace:
    """Where workers run: ``ray:N`` or ``ray://host:port``.

    Args:
        count: How many on this machine; None for a cluster.
        address: The cluster's, ``ray://host:port``; None for this machine.
    """

    count: int | None = None
    address: str | None = None

    @classmethod
    def parse(cls, text: str) -> WorkersPlace:
        """Return the place that a text names.

        Raises:
            ValueError: If it names none.
        """
        kind, _, rest = text.partition(":")
        if kind == "ray" and rest.isascii() and rest.isdigit() and int(rest):
            return cls(count=int(rest))
        host, _, port = rest.removeprefix("//").rpartition(":")
        if kind == "ray" and rest.startswith("//") and host and port.isascii() and port.isdigit():
            return cls(address=text)
        raise ValueError("must be ray:N, as in ray:2, or ray://host:port")
