"""The demo: a real CT image through the four routes of a server started for it, each answer checked."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pydicom
from PIL import Image, ImageDraw

from health import wait_until_healthy
from lib.imaging.palette import PALETTE
from sample_studies import HEAD_CT, HEAD_CT_RECTANGLE, dicom_file, fill
from serve import ROOT, base_url, free_port

DEMO_FOLDER = ROOT / "demo"
VIEWS = ("overlay", "contour", "mask", "image")
PROMPTS = {
    "rectangles": [HEAD_CT_RECTANGLE],
    "positive_points": [{"x": 250, "y": 350}, {"x": 255, "y": 270}],
    "negative_points": [{"x": 175, "y": 275}, {"x": 340, "y": 275}],
}
SECONDARY_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
STARTUP_S = 300
STOP_S = 30
_LOGGED = re.compile(r"\(([\w.]+):\d+\) - (.*)")
_POSITIVE, _NEGATIVE = (11, 107, 69), (168, 50, 42)


class DemoError(RuntimeError):
    """An answer was not what it should be; the message says which and how."""


def run_demo(*, models: str | None, conf: Sequence[Sequence[str]]) -> int:
    """Runs the demo and prints what it did; 0 if all was right, else 1.

    Args:
        models: For the server, as ``--models``.
        conf: For the server, as ``--conf``.
    """
    if any(key == "api_keys" for key, _ in conf):
        print("The demo's server is its own and asks for no login: leave --conf api_keys out", file=sys.stderr)
        return 2
    DEMO_FOLDER.mkdir(exist_ok=True)
    # So that a SIGTERM also comes by the code that stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()

    def say(stage: str) -> None:
        print(f"  {time.monotonic() - started:5.1f} s  {stage}", flush=True)

    try:
        with tempfile.TemporaryDirectory(prefix="sam-demo-") as folder:
            work = Path(folder)
            say("Writing three example images, made from pydicom's test files")
            fill(work / "studies")
            options = ["--studies", str(work / "studies"), "--conf", "results", str(work / "results")]
            options += ["--conf", "audit_log", str(work / "audit.jsonl")]
            options += ["--models", models] if models else []
            options += [word for key, value in conf for word in ("--conf", key, value)]
            with running_server(options, say) as url:
                say(f"The server is ready: {url}\n")
                walk(url, work / "results", DEMO_FOLDER)
    except (DemoError, httpx.HTTPError) as error:
        print(f"\nDemo FAILED: {error}", file=sys.stderr)
        return 1
    print(
        f"\nDemo passed in {time.monotonic() - started:.1f} s; its server is stopped. In {_shown(DEMO_FOLDER)}/ are\n"
        "prompts.png, what was marked, overlay.png and mask_colour.png, what came back, and the rest.\n"
        "To go on: scripts/start, then open http://127.0.0.1:8000/ in a browser."
    )
    return 0


def stage_of(line: str) -> str | None:
    """What a line of the server's log tells of its start, for people; None for nothing that they wait for."""
    found = _LOGGED.search(line)
    if found is None:
        return None
    logger, message = found.groups()
    if message == "Application startup complete.":
        return "It answers, and loads its model ..."
    return message.partition(";")[0] if logger.startswith("lib.sam.") else None


@contextmanager
def running_server(options: Sequence[str], say: Callable[[str], None]) -> Iterator[str]:
    """A server of its own on a free port of this machine, stopped at the end; its URL.

    Args:
        options: Of ``scripts/start``.
        say: Is told each stage of its start.

    Raises:
        DemoError: If it does not come up; the message holds the end of its log.
    """
    port = free_port("127.0.0.1", 0)
    log = DEMO_FOLDER / "server.log"
    command = [sys.executable, str(Path(__file__).with_name("serve.py")), "--port", str(port), *options]
    say(f"Starting the server; its log is {_shown(log)} ...")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=os.environ
        )
    written = log.open(errors="replace")

    def goes_on() -> bool:
        for line in written:
            if stage := stage_of(line):
                say(stage)
        return process.poll() is None

    try:
        url = base_url("127.0.0.1", port)
        if wait_until_healthy(url, goes_on, STARTUP_S) is None:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            how = f"ended with {process.returncode}" if process.poll() is not None else f"was silent for {STARTUP_S} s"
            raise DemoError(f"the server {how}; the end of {log}:\n{end}")
        goes_on()
        yield url
    finally:
        written.close()
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def walk(url: str, results: Path, folder: Path) -> None:
    """Sends the image through the routes, writes what comes back, and checks it.

    Args:
        url: The server.
        results: Where it keeps its results.
        folder: What the files are written into.

    Raises:
        DemoError: If anything is not as it should be.
    """
    upload = dicom_file(HEAD_CT)
    source = pydicom.dcmread(upload)
    with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:
        check_health(client)
        began = time.monotonic()
        timestamp = segment(client, upload)
        print(f"  POST /segment_input_image/    {upload.name} -> {timestamp} in {time.monotonic() - began:.2f} s")
        views = {view: fetch_view(client, timestamp, view, folder) for view in VIEWS}
        area = check_views(views, (source.Columns, source.Rows))
        print(f"  mask area                     {area} pixels of {source.Columns} x {source.Rows}")
        print_scores(results)
        draw_pictures(views, folder)
        capture = fetch_dicom(client, timestamp, {}, folder / "secondary_capture.dcm")
        check_capture(capture, source)
        segmentation = fetch_dicom(client, timestamp, {"type": "seg"}, folder / "segmentation.dcm")
        check_segmentation(segmentation, source, area)


def check_health(client: httpx.Client) -> None:
    """``/health_check/`` is ok; prints what the server says of itself."""
    answer = _get(client, "/health_check/").json()
    if answer.get("status") != "ok":
        raise DemoError(f"/health_check/ says {answer}")
    what = ", ".join(f"{key} {answer[key]}" for key in ("version", "default_model", "device") if key in answer)
    print(f"  GET /health_check/            ok: {what}")


def segment(client: httpx.Client, upload: Path) -> str:
    """Posts the image with the prompts; the timestamp as the server wrote it."""
    with upload.open("rb") as file:
        response = client.post(
            "/segment_input_image/",
            files={"file": (upload.name, file, "application/dicom")},
            data={"sam_input": json.dumps(PROMPTS)},
        )
    if response.status_code != 200:
        raise DemoError(f"POST /segment_input_image/ answered {response.status_code}: {response.text[:500]}")
    timestamp = json.loads(response.text, parse_float=str, parse_int=str).get("timestamp")
    if not isinstance(timestamp, str) or float(timestamp) <= 0:
        raise DemoError(f"POST /segment_input_image/ answered no timestamp but {response.text[:500]}")
    return timestamp


def fetch_view(client: httpx.Client, timestamp: str, view: str, folder: Path) -> np.ndarray:
    """One PNG view, also written to the folder."""
    response = _get(client, f"/get_segmented_image/{timestamp}", view=view)
    if response.headers["content-type"] != "image/png":
        raise DemoError(f"the view {view} is {response.headers['content-type']}, not image/png")
    path = folder / f"{view}.png"
    path.write_bytes(response.content)
    print(f"  GET /get_segmented_image/     {view} -> {_shown(path)}")
    return np.asarray(Image.open(io.BytesIO(response.content)))


def check_views(views: dict[str, np.ndarray], size: tuple[int, int]) -> int:
    """The views have the image's size and the mask is a plausible object; the mask's area in pixels."""
    for view, pixels in views.items():
        if pixels.shape[1::-1] != size:
            raise DemoError(f"{view}.png has {pixels.shape[1::-1]} pixels, the image {size}")
    mask = views["mask"]
    if mask.ndim != 2 or not set(np.unique(mask)) <= {0, 1}:
        raise DemoError("mask.png is not 8-bit grey with 0 for background and 1 for the one object")
    x, y, width, height = (HEAD_CT_RECTANGLE[key] for key in ("startX", "startY", "width", "height"))
    area, inside = int(mask.sum()), int(mask[y : y + height, x : x + width].sum())
    if not 0.1 * width * height <= inside:
        raise DemoError(f"the mask covers {inside} pixels of the rectangle's {width * height}: less than a tenth")
    if inside < 0.7 * area:
        raise DemoError(f"only {inside} of the mask's {area} pixels are in the rectangle")
    for view in ("overlay", "contour"):
        if np.array_equal(views[view], views["image"]):
            raise DemoError(f"{view}.png shows nothing on the image")
    return area


def draw_pictures(views: dict[str, np.ndarray], folder: Path) -> None:
    """Draws what was marked on the image, and the mask in its object's colour, black elsewhere.

    Args:
        views: ``image``, ``(H, W)`` or ``(H, W, 3)`` uint8, and ``mask``, ``(H, W)`` object numbers.
        folder: Where ``prompts.png`` and ``mask_colour.png`` are written.
    """
    picture = Image.fromarray(views["image"]).convert("RGB")
    drawing = ImageDraw.Draw(picture)
    for rectangle in PROMPTS["rectangles"]:
        x, y = rectangle["startX"], rectangle["startY"]
        drawing.rectangle((x, y, x + rectangle["width"], y + rectangle["height"]), outline="white", width=2)
    for kind, colour, sign in (("positive_points", _POSITIVE, "+"), ("negative_points", _NEGATIVE, "-")):
        for point in PROMPTS[kind]:
            drawing.circle((point["x"], point["y"]), 7, fill=colour, outline="white", width=2)
            drawing.text((point["x"], point["y"]), sign, fill="white", anchor="mm")
    coloured = Image.fromarray(PALETTE[views["mask"]])
    for name, drawn in (("prompts.png", picture), ("mask_colour.png", coloured)):
        drawn.save(folder / name)
        print(f"  drawn here                    {_shown(folder / name)}")


def print_scores(results: Path) -> None:
    """Prints the predicted IoU from the result's manifest."""
    manifest = next(results.glob("[0-9]*/manifest.json"))
    result = json.loads(manifest.read_text(encoding="utf-8"))["result"]
    scores = ", ".join(f"{score:.3f}" for score in result["scores"])
    print(f"  predicted IoU                 {scores} by {result['model']}")


def fetch_dicom(client: httpx.Client, timestamp: str, query: dict[str, str], path: Path) -> pydicom.FileDataset:
    """One DICOM object, also written to that file."""
    response = _get(client, f"/get_dicom_image/{timestamp}", **query)
    if response.headers["content-type"] != "application/dicom":
        raise DemoError(f"{path.name} came as {response.headers['content-type']}, not application/dicom")
    path.write_bytes(response.content)
    dataset = pydicom.dcmread(io.BytesIO(response.content))
    print(f"  GET /get_dicom_image/         {dataset.SOPClassUID.name} -> {_shown(path)}")
    return dataset


def check_capture(capture: pydicom.Dataset, source: pydicom.Dataset) -> None:
    """It is a Secondary Capture of the source's size, in its study, with its patient."""
    if not capture.SOPClassUID.startswith(SECONDARY_CAPTURES):
        raise DemoError(f"secondary_capture.dcm is a {capture.SOPClassUID.name}")
    _check_same(capture, source, "secondary_capture.dcm", ("StudyInstanceUID", "PatientID", "Rows", "Columns"))
    if capture.pixel_array.max() == 0:
        raise DemoError("secondary_capture.dcm is black")


def check_segmentation(segmentation: pydicom.Dataset, source: pydicom.Dataset, area: int) -> None:
    """It is a Segmentation of the source instance, in its study, with the mask's pixels."""
    if segmentation.SOPClassUID != SEGMENTATION:
        raise DemoError(f"segmentation.dcm is a {segmentation.SOPClassUID.name}")
    _check_same(segmentation, source, "segmentation.dcm", ("StudyInstanceUID", "PatientID", "Rows", "Columns"))
    referenced = [
        instance.ReferencedSOPInstanceUID
        for series in segmentation.ReferencedSeriesSequence
        for instance in series.ReferencedInstanceSequence
    ]
    if referenced != [source.SOPInstanceUID]:
        raise DemoError(f"segmentation.dcm refers to {referenced}, not to the image that was sent")
    pixels = int(np.count_nonzero(segmentation.pixel_array))
    if pixels != area:
        raise DemoError(f"segmentation.dcm has {pixels} pixels, the mask {area}")


def _check_same(made: pydicom.Dataset, source: pydicom.Dataset, name: str, keywords: Sequence[str]) -> None:
    for keyword in keywords:
        if made.get(keyword) != source.get(keyword):
            raise DemoError(f"{name} has {keyword} {made.get(keyword)!r}, the image {source.get(keyword)!r}")


def _get(client: httpx.Client, path: str, **query: str) -> httpx.Response:
    response = client.get(path, params=query)
    if response.status_code != 200:
        raise DemoError(f"GET {path} {query or ''} answered {response.status_code}: {response.text[:500]}")
    return response


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
