"""Requests of many kinds, the same ones each time for each client, and what of their answers has to be the same."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import nrrd
import numpy as np
from requests_toolbelt.multipart.decoder import MultipartDecoder

from bench.server import Client, ServerError, pixels, png
from bench.workplace import Workplace, torso

_SLICES = 3
_LABELS = ("organ", "lesion")


@dataclass(frozen=True)
class ManyImage:
    """An image that is both in the datastore and sent along.

    Args:
        id: In the datastore, ``_SLICES`` slices.
        png: One slice, as a file to send.
    """

    id: str
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Request:
    """One request of one client.

    Args:
        kind: ``infer points``, ``infer box``, ``REST points``, ``REST box`` or ``REST two objects``.
        image: What it is about.
        client: The client's name, which keeps its clicks apart from the others'.
        content: ``params`` of ``/infer``, or ``sam_input``.
    """

    kind: str
    image: ManyImage
    client: str
    content: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came back.

    Args:
        facts: JSON about the result, for ``/infer`` within a multipart body.
        body: The labels' file: NRRD or PNG.
        error: Why there is none.
    """

    facts: bytes = b""
    body: bytes = field(default=b"", repr=False)
    content_type: str = ""
    error: str | None = None

    @cached_property
    def _decoded(self) -> tuple[np.ndarray, Any]:
        """The labels and the scores; read only after all requests are done, for it takes time."""
        if self.content_type.startswith("image/png"):
            facts = json.loads(self.facts)
            return pixels(self.body), (facts.get("scores"), facts.get("candidate_scores"))
        parts = {_name(part): part.content for part in MultipartDecoder(self.body, self.content_type).parts}
        facts, stream = json.loads(parts["params"]), io.BytesIO(parts["image"])
        header = nrrd.read_header(stream)
        return nrrd.read_data(header, stream), (facts["scores"], facts["candidate_scores"])

    def is_same(self, other: Outcome) -> bool:
        """Whether labels and scores are, bit for bit."""
        (labels, scores), (other_labels, other_scores) = self._decoded, other._decoded
        return np.array_equal(labels, other_labels) and scores == other_scores


def _name(part: Any) -> str:
    disposition = part.headers[b"Content-Disposition"].decode()
    return str(disposition.split('name="', 1)[1].split('"', 1)[0])


def many_images(workplace: Workplace, count: int = 4) -> list[ManyImage]:
    """Images of which all clients ask."""
    images = []
    for number in range(count):
        volume = workplace.volume(f"many-{number}", _SLICES)
        frame = torso(1, seed=100 + number)[0].astype(np.float32)
        images.append(ManyImage(volume.id, png(np.clip((frame + 160) / 400 * 255, 0, 255).astype(np.uint8))))
    return images


def requests_of(number: int, images: Sequence[ManyImage]) -> Iterator[Request]:
    """The requests of the client of that number, without an end, always the same."""
    place = random.Random(f"client {number}")  # noqa: S311 - places of clicks
    name = f"client-{number}"
    clicked: dict[tuple[str, int, str], list[list[int]]] = {}
    while True:
        image = place.choice(images)
        kind = place.choices(
            ["infer points", "infer box", "REST points", "REST box", "REST two objects"], [45, 15, 15, 15, 10]
        )[0]
        k = place.randrange(_SLICES)
        x, y, width, height = (place.randrange(*bounds) for bounds in ((100, 380), (120, 340), (40, 120), (40, 120)))
        if kind == "infer points":
            label = place.choice(_LABELS)
            before = clicked.get((image.id, k, label), [])
            points = [*before, [x, y, k]] if len(before) < 4 and place.random() < 0.6 else [[x, y, k]]
            clicked[image.id, k, label] = points
            content: dict[str, Any] = {"foreground": points, "label": label, "client_id": name}
            if place.random() < 0.3:
                content["background"] = [[place.randrange(100, 380), place.randrange(120, 340), k]]
        elif kind == "infer box":
            content = {"roi": [x, x + width, y, y + height, k, k], "foreground": [], "client_id": name}
        elif kind == "REST points":
            content = {"positive_points": [{"x": x, "y": y}], "negative_points": [{"x": x + width, "y": y}]}
        else:
            boxes = [{"startX": x, "startY": y, "width": width, "height": height}]
            if kind == "REST two objects":
                boxes.append({"startX": 60, "startY": 90, "width": width, "height": height})
            content = {"rectangles": boxes}
        yield Request(kind, image, name, content)


def send(client: Client, request: Request) -> Outcome:
    """Send it, and for REST fetch the mask; an error is part of the outcome."""
    try:
        if request.kind.startswith("infer"):
            parameters = dict(request.content)
            answer = client.click("sam_tiny", request.image.id, parameters.pop("foreground"), output="", **parameters)
            return Outcome(body=answer.content, content_type=answer.headers["content-type"])
        answer = client.segment(request.image.png, request.content)
        timestamp = json.loads(answer.content, parse_float=str)["timestamp"]
        mask = client.get(f"/get_segmented_image/{timestamp}", view="mask")
        facts = answer.headers.get("sam-result", "{}").encode()
        return Outcome(facts=facts, body=mask.content, content_type=mask.headers["content-type"])
    except (httpx.HTTPError, ServerError) as error:
        return Outcome(error=f"{request.kind}: {type(error).__name__} {error}"[:300])
