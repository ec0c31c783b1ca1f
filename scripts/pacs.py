"""A small DICOM archive on this machine, for those who want to see OHIF and have no PACS at hand."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from orthanc import PACKAGES, OrthancError, program, running
from serve import UsageError, free_port

ROOT = Path(__file__).resolve().parents[1]
_INSTALL = ("apt-get", "install", "-y", *PACKAGES)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/pacs",
        description="Runs Orthanc, a DICOM archive with DICOMweb, on this machine alone, and stores DICOM files in it. "
        "scripts/start then serves them to OHIF. Ctrl-C stops it, as does closing its terminal; what it stored stays.",
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="DIR", help="DICOM files to store, or folders of them; "
        "without any a synthetic CT and a synthetic MR, if the archive is empty",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8042, help="the port (default: %(default)s); 0: a free one")
    parser.add_argument("--data", type=Path, default=ROOT / ".pacs", help="folder of the archive (default: .pacs)")
    parser.add_argument(
        "--install", action="store_true", help=f"first install {' and '.join(PACKAGES)} if they are not there (Debian)"
    )
    return parser


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files, and those of the folders and their subfolders.

    Raises:
        UsageError: If there is none.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or folder")
    files = [
        file
        for path in paths
        for file in (sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path])
    ]
    if paths and not files:
        raise UsageError(f"there is no file in {', '.join(map(str, paths))}")
    return files


def ensure_installed(*, install: bool) -> None:
    """See that Orthanc is there.

    Raises:
        UsageError: If it is not, and cannot be installed or was not asked for.
    """
    try:
        program()
        return
    except OrthancError as error:
        how = shlex.join(_INSTALL if os.geteuid() == 0 else ("sudo", *_INSTALL))
        if not install:
            raise UsageError(f"{error}: run 'scripts/pacs --install' or '{how}'") from error
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (("apt-get", "update"), _INSTALL):
            sudo = () if os.geteuid() == 0 else ("sudo",)
            subprocess.run([*sudo, *command], check=True, env=environment)
        program()
    except (OSError, subprocess.CalledProcessError, OrthancError) as error:
        raise UsageError(f"{' and '.join(PACKAGES)} could not be installed: {error}") from error


def run(arguments: argparse.Namespace) -> None:
    """Run the archive until it is stopped.

    Raises:
        UsageError: If it cannot be run as asked.
        OrthancError: If it does not start.
    """
    files = files_of(arguments.folders)
    ensure_installed(install=arguments.install)
    try:
        port = free_port("127.0.0.1", arguments.port)
    except UsageError as error:
        hint = "Debian's package starts an Orthanc of its own there: sudo systemctl disable --now orthanc"
        raise UsageError(f"{error}. ({hint})" if arguments.port == 8042 else str(error)) from None
    with running(arguments.data.resolve(), port) as orthanc:
        if files:
            refused = orthanc.store(*files)
            print(f"Stored {len(files) - len(refused)} DICOM files; {len(refused)} others were left out.")
        elif not orthanc.count("studies"):
            from phantom_series import SERIES

            with tempfile.TemporaryDirectory() as folder:
                orthanc.store(*(file for series in SERIES for file in series.write(Path(folder))))
            print("Stored a synthetic CT and a synthetic MR.")
        print(where_to_go_next(orthanc.dicomweb, orthanc.count("studies"), arguments.data), flush=True)
        threading.Event().wait()


def where_to_go_next(dicomweb: str, studies: int, data: Path) -> str:
    """What a person can do now that it runs."""
    return (
        f"\nThe archive is running, with {studies} {'study' if studies == 1 else 'studies'}. Ctrl-C stops it.\n\n"
        f"  DICOMweb   {dicomweb}\n"
        f"  Data       {data}\n\n"
        f"In another terminal:\n\n"
        f"  scripts/start --studies {dicomweb}\n\n"
        f"When that is ready, open its http://127.0.0.1:8000/ohif/ in a browser.\n"
    )


def _end_by(number: signal.Signals) -> None:
    """Have a signal also come by the code that stops the archive."""
    signal.signal(number, lambda *_: sys.exit(128 + number))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    arguments = make_parser().parse_args(argv)
    _end_by(signal.SIGTERM)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: it is to outlive its terminal
        _end_by(signal.SIGHUP)
    try:
        run(arguments)
    except (UsageError, OrthancError) as error:
        print(f"scripts/pacs: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
