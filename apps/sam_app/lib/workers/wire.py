"""An encode as HTTP: what a server sends to a worker, and what comes back.

A request is ``POST /encode`` with the pixels as its body, row by row, and these headers; the answer to it is 200 with
the embedding as its body, float32, little-endian, level after level, or 409 with the reason as text. No name, number
or path of a study is in it::

    Authorization   Bearer, and the token that servers and workers share
    X-Sam-Encode    JSON: version (of the app), model, checkpoint_sha256, runtime, shape ([H, W, C])
    X-Sam-Levels    of the answer, JSON: the shapes of the levels, [1, h, w, C] each

An image whose three channels are equal is sent as one.
"""

import hmac
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lib.version import VERSION

PATH = "/encode"
STATUS_PATH = "/workers"
ENCODE, LEVELS = "x-sam-encode", "x-sam-levels"
FRONT, DEMAND = "x-sam-front", "x-sam-demand"
"""Of a request for the status: a server's name for itself, and how many encodes requests wait for there."""

TOKEN_VARIABLE = "SAM_WORKERS_TOKEN"  # noqa: S105 - a variable's name
"""Environment variable with the token that servers and workers share, where somebody else starts the workers."""

_FLOAT32 = np.dtype("<f4")


class EncodeRequest(NamedTuple):
    """What a server asks for.

    Args:
        version: The server's version of the app.
        model: Name of the model.
        checkpoint_sha256: SHA-256 of the server's weights, in hexadecimal.
        runtime: The key of the server's runtime, see :class:`~lib.sam.runtimes.runtime.Runtime`.
        image: ``(H, W, 3)`` uint8.
    """

    version: str
    model: str
    checkpoint_sha256: str
    runtime: str
    image: np.ndarray


def authorization(token: str) -> str:
    """Return the header ``Authorization`` with a token."""
    return f"Bearer {token}"


def is_authorized(headers: Mapping[str, str], token: str) -> bool:
    """Return whether a request has the token."""
    return hmac.compare_digest(headers.get("authorization", "").encode(), authorization(token).encode())


def pack_request(model: str, checkpoint_sha256: str, runtime: str, image: np.ndarray) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a request of this version of the app; arguments as :class:`EncodeRequest`."""
    is_grey = np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])
    sent = image[..., :1] if is_grey else image
    facts = {
        "version": VERSION,
        "model": model,
        "checkpoint_sha256": checkpoint_sha256,
        "runtime": runtime,
        "shape": sent.shape,
    }
    return {ENCODE: json.dumps(facts), "Content-Type": "application/octet-stream"}, sent.tobytes()


def unpack_request(headers: Mapping[str, str], body: bytes) -> EncodeRequest:
    """Return what a request asks for.

    Raises:
        ValueError: If it is no such request.
    """
    try:
        facts = json.loads(headers[ENCODE])
        height, width, channels = facts.pop("shape")
        image = np.frombuffer(body, np.uint8).reshape(height, width, channels)
        return EncodeRequest(**facts, image=np.broadcast_to(image, (height, width, 3)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"no request of this version, {VERSION}: install one version of the app on all") from error


def pack_levels(levels: Sequence[np.ndarray]) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an embedding's levels, each ``(1, h, w, C)`` float32."""
    body = b"".join(np.ascontiguousarray(level, _FLOAT32).data for level in levels)
    return {LEVELS: json.dumps([level.shape for level in levels])}, body


def unpack_levels(headers: Mapping[str, str], body: bytes) -> list[np.ndarray]:
    """Return an embedding's levels, each ``(1, h, w, C)`` float32, read-only views of the body.

    Raises:
        ValueError: If it is no embedding, or an incomplete one.
    """
    try:
        shapes = [tuple(map(int, shape)) for shape in json.loads(headers[LEVELS])]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("a worker's answer is no embedding") from error
    ends = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    values = np.frombuffer(body, _FLOAT32)
    if not shapes or ends[-1] != len(values):
        raise ValueError("a worker's answer is an incomplete embedding")
    return [values[start:end].reshape(shape) for start, end, shape in zip(ends, ends[1:], shapes, strict=False)]
