"""An encode as HTTP, there and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lib.version import VERSION
from lib.workers import wire

COLOUR = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
GREY = np.repeat(COLOUR[..., :1], 3, axis=2)
LEVELS = [np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), np.full((1, 4, 6, 2), np.pi, np.float32)]


@pytest.mark.parametrize(
    ("image", "sent"),
    [(COLOUR, 105), (GREY, 35), (COLOUR[::-1, ::2], 60), (GREY.transpose(1, 0, 2), 35)],
    ids=["colour", "grey, as one channel", "a view", "turned"],
)
def test_an_image_arrives_as_it_was(image: np.ndarray, sent: int):
    headers, body = wire.pack_request("sam_tiny", "ab" * 32, "openvino", image)
    assert len(body) == sent
    asked = wire.unpack_request(headers, body)
    assert asked[:4] == (VERSION, "sam_tiny", "ab" * 32, "openvino")
    assert asked.image.dtype == np.uint8 and np.array_equal(asked.image, image)


def test_what_is_sent_tells_nothing_of_a_patient():
    headers, _ = wire.pack_request("sam_tiny", "ab" * 32, "openvino", COLOUR)
    assert set(headers) == {wire.ENCODE, "Content-Type"}
    assert set(json.loads(headers[wire.ENCODE])) == {"version", "model", "checkpoint_sha256", "runtime", "shape"}


def test_an_embedding_arrives_bit_for_bit():
    headers, body = wire.pack_levels([LEVELS[0], LEVELS[1][:, ::-1]])
    ours = wire.unpack_levels(headers, body)
    assert [level.dtype for level in ours] == [np.float32] * 2
    assert np.array_equal(ours[0], LEVELS[0]) and np.array_equal(ours[1], LEVELS[1][:, ::-1])


@pytest.mark.parametrize("cut", [1, 4, 96, 10_000])
def test_an_incomplete_embedding_is_refused(cut: int):
    headers, body = wire.pack_levels(LEVELS)
    with pytest.raises(ValueError, match=r"incomplete|buffer size"):
        wire.unpack_levels(headers, body[:-cut])


@pytest.mark.parametrize("headers", [{}, {wire.LEVELS: "{"}, {wire.LEVELS: "[1]"}, {wire.LEVELS: "[]"}])
def test_what_is_no_embedding_is_refused(headers: dict[str, str]):
    with pytest.raises(ValueError, match="a worker's answer is"):
        wire.unpack_levels(headers, wire.pack_levels(LEVELS)[1])
