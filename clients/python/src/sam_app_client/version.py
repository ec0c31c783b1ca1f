"""The client's version, and which servers it fits."""

VERSION = "0.2.0"
"""Of the client: that of the server with which it is released."""


def fits(server: str) -> bool:
    """Return whether this client can talk to a server of that version.

    Versions are semantic: before 1.0 those with the same first two numbers fit, from then on those with the same first.

    Args:
        server: Its version, ``"0.2.0"``.
    """
    return _release(server) == _release(VERSION)


def _release(version: str) -> list[str]:
    major, *rest = version.split(".")
    return [major, *rest[:1]] if major == "0" else [major]
