"""Fix: MONAI Label 0.8.5 leaves temporary files behind.

Its routes write an upload under the name of a temporary file that was deleted, and remove it only after a response;
a dataset's archive that fails half-way is never removed, nor is a copy of the log's configuration at every start.
Here they are scratch files of their request, and the copy is removed after it was read.
"""

import os
import sys
from types import FrameType
from typing import BinaryIO

import monailabel.datastore.local
import monailabel.endpoints.datastore

from lib.base.scratch import scratch_file

_MODULES = (monailabel.datastore.local, monailabel.endpoints.datastore)


class _ScratchFiles:
    """Replacement for what those modules use of :mod:`tempfile`."""

    @staticmethod
    def NamedTemporaryFile(suffix: str = "", delete: bool = True) -> BinaryIO:
        """Return an open scratch file, whose name is in use until the request ends."""
        return open(scratch_file(suffix), "w+b")


def track_temporary_files() -> None:
    """Make MONAI Label's modules create their temporary files as scratch files."""
    for module in _MODULES:
        module.tempfile = _ScratchFiles  # type: ignore[attr-defined]


def remove_log_configuration() -> None:
    """Remove the copy of the log's configuration that ``monailabel start_server`` made; only that command knows it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "action_start_server":
        frame = frame.f_back
    if frame is None:
        return
    asked, made = getattr(frame.f_locals["args"], "log_config", None), frame.f_locals.get("log_config")
    if made and made != asked and os.path.isfile(made):
        os.unlink(made)
