"""Starts MONAI Label's server on the app, after a look at what it was asked to do."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import logging
import shlex
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from health import wait_until_healthy

ROOT = Path(__file__).resolve().parents[1]
APP_FOLDER = ROOT / "apps" / "sam_app"
DEFAULT_STUDIES = ROOT / "studies"
_STARTUP_S = 600.0
_STOP_S = 7
"""Seconds for requests to end once the server was told to; engines of containers kill it after ten."""


class UsageError(ValueError):
    """The server cannot be started as asked; the message says why and what would do."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/start",
        description="Sets up .venv if need be, then serves the app. Ctrl-C stops the server.",
    )
    parser.add_argument(
        "--studies",
        metavar="DIR|URL",
        help="a folder of images or a DICOMweb server; without it studies/, filled with a few real images at first",
    )
    parser.add_argument(
        "--models", metavar="A,B", help="models by name, the default one first; without it all that have a checkpoint"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="the port (default: %(default)s); 0: a free one")
    parser.add_argument(
        "--itksnap",
        type=int,
        metavar="PORT",
        help="a further port, for ITK-SNAP alone, which expects 8911; 0: a free one",
    )
    parser.add_argument(
        "--conf", nargs=2, metavar=("K", "V"), action="append", default=[], help="an option of the app; repeatable"
    )
    parser.add_argument(
        "--demo", action="store_true", help="start, segment a real CT image into demo/, check what came, and stop"
    )
    return parser


def check_models(names: str, model_specs: str = "") -> None:
    """Sees that each model, or without any the default one, is known and has its checkpoint.

    Args:
        names: Separated by commas.
        model_specs: The file of the operator's own models, if there is one.

    Raises:
        UsageError: If not; the message lists the known models, or says how to get the checkpoint.
    """
    from lib.sam.models.checkpoints import CheckpointStore
    from lib.sam.models.model_specs import known_models
    from lib.sam.models.registry import DEFAULT_MODEL, get_spec

    store = CheckpointStore(APP_FOLDER / "model")
    try:
        models = known_models(Path(model_specs).expanduser() if model_specs else None)
        for name in (names or DEFAULT_MODEL).split(","):
            store.require(get_spec(name.strip(), models))
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_app_folder() -> None:
    """Sees that MONAI Label can keep its log with the app, and make the folders that it wants there.

    Raises:
        UsageError: If it cannot.
    """
    try:
        for name in ("bin", "logs"):
            (APP_FOLDER / name).mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=APP_FOLDER / "logs").close()
    except OSError as error:
        raise UsageError(
            f"the app's folder {APP_FOLDER}, where MONAI Label keeps its log, cannot be written ({error.strerror}): "
            "use a copy of the repository that this user can write"
        ) from error


def free_port(host: str, port: int, flag: str = "--port") -> int:
    """The port, if it can be listened on; for 0 one that can.

    Args:
        host: The address to listen on.
        port: The port.
        flag: By which it was asked for.

    Raises:
        UsageError: If it cannot.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"{flag} {port} is no port: 1 to 65535, or 0 for a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise UsageError(f"--host {host} is no address of this machine ({error.strerror})") from error
    except OSError as error:
        raise UsageError(
            f"port {port} on {host} cannot be used ({error.strerror}): stop what uses it or choose another, "
            f"e.g. {flag} {port - 1 if port == 65535 else port + 1}"
        ) from error


def studies_of(asked: str | None) -> str:
    """The studies to serve: what was asked for, or the default folder, filled if it is missing or empty.

    Raises:
        UsageError: If the folder asked for is not there.
    """
    if asked is None:
        from sample_studies import fill

        for path in fill(DEFAULT_STUDIES):
            print(f"Example image: {path}")
        return str(DEFAULT_STUDIES)
    if asked.startswith(("http://", "https://")):
        return asked
    if not Path(asked).is_dir():
        what = "is a file, not a folder" if Path(asked).exists() else "there is no such folder"
        raise UsageError(f"--studies {asked}: {what}")
    return str(Path(asked).resolve())


def base_url(host: str, port: int) -> str:
    """Where a client on this machine finds a server that listens on ``host``."""
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not where it listens
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def curl_line(url: str, image: Path, rectangle: dict[str, int]) -> str:
    """One shell line that segments the image with the rectangle and fetches the overlay into ``segmented.png``."""
    name = str(image).replace("\\", "\\\\").replace('"', '\\"')
    prompts = json.dumps({"rectangles": [rectangle]}, separators=(",", ":"))
    post = ["curl", "-fsS", "-F", f'file=@"{name}"', "-F", f"sam_input={prompts}", f"{url}/segment_input_image/"]
    number = ["sed", "-n", r's/.*"timestamp": *\([0-9.]*\).*/\1/p']
    get = ["xargs", "-I{}", "curl", "-fsS", "-o", "segmented.png", url + "/get_segmented_image/{}"]
    return " | ".join(shlex.join(command) for command in (post, number, get))


def announce(url: str, text: str) -> None:
    """Prints the text once the server is ready."""
    if wait_until_healthy(url, lambda: True, _STARTUP_S) is not None:
        print(text, flush=True)


def itksnap_port(asked: int | None, conf: dict[str, str], host: str, port: int) -> int:
    """The further port for ITK-SNAP that can be listened on; 0 if none was asked for.

    Args:
        asked: By ``--itksnap``.
        conf: Where it can be asked for, too; takes the port.
        host: The address to listen on.
        port: The server's own.

    Raises:
        UsageError: If it is asked for twice, or cannot be used.
    """
    if asked is None:
        return int(conf["itksnap_port"]) if conf.get("itksnap_port", "").isdecimal() else 0
    if "itksnap_port" in conf:
        raise UsageError("ITK-SNAP's port is given twice: use --itksnap or --conf itksnap_port, not both")
    if asked == port:
        raise UsageError(f"--itksnap {asked} is the server's own port: choose another, e.g. --itksnap 8911")
    found = free_port(host, asked, "--itksnap")
    conf["itksnap_port"] = str(found)
    return found


def where_to_go_next(url: str, studies: str, snap: int = 0) -> str:
    """What a person can do with the server, now that it is there."""
    from sample_studies import HEAD_CT_RECTANGLE, example_image

    address, _, _ = url.removeprefix("http://").rpartition(":")
    for_snap = f"  ITK-SNAP       server {address}, port {snap}\n" if snap else ""
    is_dicomweb = studies.startswith(("http://", "https://"))
    return (
        f"\nThe server is ready. Ctrl-C stops it.\n\n"
        f"  Page           {url}/sam/\n"
        f"  API            {url}/docs\n"
        f"  Health         {url}/health_check/\n"
        f"  Studies        {studies}\n"
        f"  OHIF           {f'{url}/ohif/' if is_dicomweb else 'needs a DICOMweb server: see scripts/pacs'}\n"
        f"  3D Slicer      give it {url}\n"
        f"{for_snap}\n"
        f"Segment an image and fetch the picture, segmented.png:\n\n"
        f"  {curl_line(url, example_image(Path(studies)), HEAD_CT_RECTANGLE)}\n"
    )


def run_server(run: Callable[..., None], app: str, **options: Any) -> None:
    """Run MONAI Label's app as its command asks uvicorn to, but for two things.

    MONAI Label has uvicorn wait for its clients without end, as for one that sends half of an upload. And when its app
    is imported, it prints origins that are not those whose pages may call this server.

    Args:
        run: ``uvicorn.run``.
        app: Module and name of the app.
        options: For ``run``.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # what fails is on standard error
        importlib.import_module(app.partition(":")[0])
    run(app, timeout_graceful_shutdown=_STOP_S, **options)


def serve(arguments: argparse.Namespace) -> None:
    """Runs the server in this process until it is stopped.

    Raises:
        UsageError: If it cannot be started as asked.
    """
    conf = dict(arguments.conf)
    if arguments.models is not None:
        if "models" in conf:
            raise UsageError("models are given twice: use --models or --conf models, not both")
        conf["models"] = arguments.models
    check_app_folder()
    check_models(conf.get("models", ""), conf.get("model_specs", ""))
    port = free_port(arguments.host, arguments.port)
    snap = itksnap_port(arguments.itksnap, conf, arguments.host, port)
    studies = studies_of(arguments.studies)
    url = base_url(arguments.host, port)
    print(f"Starting the server on {url} ...", flush=True)
    threading.Thread(target=announce, args=(url, where_to_go_next(url, studies, snap)), daemon=True).start()

    import uvicorn
    from monailabel.main import Main

    uvicorn.run = functools.partial(run_server, uvicorn.run)
    logging.getLogger("monailabel").setLevel(logging.WARNING)  # its command lists all its options at INFO
    sys.argv = ["monailabel", "start_server", "--app", str(APP_FOLDER), "--studies", studies]
    sys.argv += ["--host", arguments.host, "--port", str(port)]
    for key, value in conf.items():
        sys.argv += ["--conf", key, value]
    Main().run()


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    arguments = make_parser().parse_args(argv)
    try:
        if arguments.demo:
            print(
                "A demo on this machine alone: a server is started, segments a real CT image, and is stopped.\n"
                "Nothing is downloaded. On a CPU the first start converts the model, which can take a minute.\n",
                flush=True,
            )
            from demo import run_demo

            return run_demo(models=arguments.models, conf=arguments.conf)
        serve(arguments)
    except UsageError as error:
        print(f"scripts/start: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
