"""Operations on images: segment, refine, fetch what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar, Unpack, cast

import httpx
import numpy as np
import numpy.typing as npt

from sam_app_client import png
from sam_app_client.base import BaseClient, R
from sam_app_client.exchange import Operation, Request, as_json, ask, seconds_until_retry, until
from sam_app_client.files import File, ImageInput, image_file, mask_file
from sam_app_client.prompts import Prompts, StartingPrompts, check_names, sam_input
from sam_app_client.results import SegmentedImage

View: TypeAlias = Literal["overlay", "contour", "image"]
Dicom: TypeAlias = Literal["seg", "sc", "source"]
Result = TypeVar("Result", bound=SegmentedImage)

WAIT_S = 600.0
"""How long a result is waited for, unless said otherwise."""


def segment(client: BaseClient[R], image: ImageInput | None = None, **prompts: Unpack[StartingPrompts]) -> Operation[R]:
    """Segment an image, and return what was found.

    Args:
        image: The image; it can be omitted when ``start`` is an earlier result.
        **prompts: What is marked and how to segment, see :class:`StartingPrompts`.

    Returns:
        The result, with its ``mask``, ``(rows, columns)`` uint8.

    Raises:
        ApiError: If the server refuses it; ``detail`` says why.
        ConnectionFailedError, VersionMismatchError: If it cannot be asked.
        OSError: If a file cannot be read.
        TypeError, ValueError: If an argument is none that can be sent.
    """
    answer = yield from ask(_request(image, prompts))
    return (yield from result(client, answer.json()["timestamp"]))


def submit(
    client: BaseClient[Any], image: ImageInput | None = None, **prompts: Unpack[StartingPrompts]
) -> Operation[float]:
    """Have an image segmented in the background.

    The server works on such requests one after the other, also after a restart.

    Args:
        image, **prompts: As of ``segment``.

    Returns:
        The timestamp by which ``result`` fetches what was found.

    Raises:
        ApiError and others: As ``segment``, for what can be found out at once.
    """
    answer = yield from ask(_request(image, prompts, {"Prefer": "respond-async"}))
    return float(answer.json()["timestamp"])


def result(
    client: BaseClient[R],
    timestamp: float,
    *,
    within: float = WAIT_S,
    on_wait: Callable[[float], None] | None = None,
) -> Operation[R]:
    """Return a result, as soon as it is finished.

    Args:
        timestamp: Of ``submit``, or of an earlier result.
        within: Seconds to wait for it at most; 0: ask once.
        on_wait: Told each time that it is not finished after how many seconds it is asked for again.

    Raises:
        ApiError: Why it failed, or status 404 if there is none of this timestamp.
        NotFinishedError: If it is not finished in time.
        ConnectionFailedError, VersionMismatchError: If the server cannot be asked.
    """

    def look() -> Operation[tuple[httpx.Response | None, float]]:
        answer = yield from ask(_mask_request(timestamp))
        if answer.status_code != 202:
            return answer, 0.0
        seconds = seconds_until_retry(answer) or 1.0
        if on_wait and within:
            on_wait(seconds)
        return None, seconds

    unfinished = f"the result {timestamp!r} is not finished yet; fetch it later"
    answer = yield from until(look, within=within, unfinished=unfinished)
    facts = json.loads(answer.headers["sam-result"])
    return client._result_type(timestamp, png.decode(answer.content), facts, client)


def refine(earlier: Result, **prompts: Unpack[Prompts]) -> Operation[Result]:
    """Add prompts to those of this result, and return the new one; the image is not sent again.

    Objects that get more prompts start from the mask that they had. This result stays as it is: to undo, go on from it.

    Args:
        **prompts: What is marked besides, see :class:`Prompts`.

    Raises:
        ApiError and others: As of ``segment``.
    """
    answer = yield from ask(_request(None, prompts, refine=earlier.timestamp))
    refined = yield from result(earlier._client, answer.json()["timestamp"])
    return cast(Result, refined)


def object_mask(of: SegmentedImage, number: int, candidate: int = 0) -> Operation[npt.NDArray[np.bool_]]:
    """Return the whole mask of one object, also where another one covers it.

    Args:
        number: Of the object, from 1.
        candidate: Which of its candidates, 0 to 2.

    Returns:
        ``(rows, columns)`` bool.

    Raises:
        ApiError: If there is no such object or candidate.
    """
    answer = yield from ask(_mask_request(of.timestamp, object=str(number), candidate=str(candidate)))
    return png.decode(answer.content) > 0


def candidate_mask(of: SegmentedImage, candidate: int) -> Operation[npt.NDArray[np.uint8]]:
    """Return the mask as :attr:`mask` has it, of another candidate.

    Args:
        candidate: 0 to 2, best first.

    Raises:
        ApiError: If there is no such candidate.
    """
    answer = yield from ask(_mask_request(of.timestamp, candidate=str(candidate)))
    return png.decode(answer.content)


def picture(of: SegmentedImage, view: View = "overlay", candidate: int = 0) -> Operation[npt.NDArray[np.uint8]]:
    """Return a picture of the image and its objects.

    Args:
        view: ``overlay``, ``contour``, or ``image``: as the model saw it, windowed.
        candidate: Which of the candidates, 0 to 2.

    Returns:
        ``(rows, columns, 3)`` uint8, RGB.

    Raises:
        ApiError: If it cannot be made.
    """
    query = {"view": view, "candidate": str(candidate)}
    answer = yield from ask(Request("GET", f"/get_segmented_image/{of.timestamp!r}", query))
    return png.decode(answer.content)


def dicom(of: SegmentedImage, kind: Dicom = "seg", candidate: int = 0) -> Operation[bytes]:
    """Return the result as a DICOM file; all kinds are in the study of the image, if that was DICOM.

    Args:
        kind: ``seg``: a Segmentation; ``sc``: the overlay as Secondary Capture; ``source``: the image as Secondary
            Capture, if it was not DICOM itself.
        candidate: Which of the candidates, 0 to 2.

    Raises:
        ApiError: If it cannot be made.
    """
    query = {"type": kind, "candidate": str(candidate)}
    answer = yield from ask(Request("GET", f"/get_dicom_image/{of.timestamp!r}", query))
    return answer.content


def seg(of: SegmentedImage, candidate: int = 0) -> Operation[bytes]:
    """Return the result as a DICOM Segmentation, a segment for each object; see ``dicom``."""
    return dicom(of, "seg", candidate)


def _mask_request(timestamp: float, **query: str) -> Request:
    return Request("GET", f"/get_segmented_image/{timestamp!r}", {"view": "mask", **query})


def _request(
    image: ImageInput | None,
    prompts: StartingPrompts | Prompts,
    headers: dict[str, str] | None = None,
    *,
    refine: float | None = None,
) -> Request:
    """Return the request that segments.

    Raises:
        TypeError: For a keyword that is none.
        ValueError: If there is no image and no earlier result.
    """
    check_names(prompts, StartingPrompts if refine is None else Prompts)
    marked = cast(StartingPrompts, prompts)
    asked, files = sam_input(marked), list[tuple[str, File]]()
    if image is not None:
        files.append(("file", image_file(image)))
    if refine is not None:
        asked["refine"] = refine
    start = marked.get("start")
    if isinstance(start, SegmentedImage):
        asked["start"] = start.timestamp
    elif start is not None:
        files.append(("mask", mask_file(start, "mask")))
    if "protect" in marked:
        files.append(("protect", mask_file(marked["protect"], "protect")))
    if image is None and refine is None and "start" not in asked:
        raise ValueError("give an image, or an earlier result as start")
    return Request(
        "POST", "/segment_input_image/", form={"sam_input": as_json(asked)}, files=files, headers=headers or {}
    )
