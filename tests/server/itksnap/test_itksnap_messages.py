"""What ITK-SNAP sends beside an array, and its points: axes in its order become those of arrays here."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from lib.server.http.errors import InteractionError
from lib.server.itksnap.messages import Metadata, point_at


@pytest.mark.parametrize(
    ("sent", "shape", "spacing"),
    [
        ({"dimensions": [5, 4, 3], "spacing": [0.5, 0.6, 2]}, (3, 4, 5), (2, 0.6, 0.5)),
        ({"dimensions": [5, 4], "spacing": [0.5, 0.6]}, (1, 4, 5), (1, 0.6, 0.5)),
        ({"dimensions": [5, 4, 1]}, (1, 4, 5), (1, 1, 1)),
        ({"dimensions": [5, 4, 3], "spacing": [float("nan"), -2, 0]}, (3, 4, 5), (1, 2, 1)),
        ({"dimensions": [5, 4, 3], "direction": [1] * 9, "origin": [7, 8, 9], "more": None}, (3, 4, 5), (1, 1, 1)),
    ],
)
def test_sizes_and_spacing_are_those_of_an_array_whose_last_axis_changes_fastest(sent, shape, spacing):
    metadata = Metadata.model_validate_json(json.dumps(sent))
    assert (metadata.shape, metadata.spacing_zyx) == (shape, spacing)


@pytest.mark.parametrize(
    "sent",
    [
        "{}",
        "[]",
        "null",
        '{"dimensions": [5]}',
        '{"dimensions": [5, 4, 3, 2]}',
        '{"dimensions": [5, 4, 0]}',
        '{"dimensions": [5, -4, 3]}',
        '{"dimensions": [5, 4.5, 3]}',
        '{"dimensions": [5, 4], "components_per_pixel": 3}',
        '{"dimensions": [5, 4], "component_type": "float64"}',
        "[" * 100_000,
    ],
)
def test_what_cannot_be_meant_is_refused(sent):
    with pytest.raises(ValidationError):
        Metadata.model_validate_json(sent)


def test_a_point_is_counted_from_the_axis_that_changes_fastest():
    point = point_at((4, 3, 2), (3, 4, 5), False)
    assert (point.coordinates, point.is_foreground) == ((2, 3, 4), False)
    assert point_at((4, 3), (1, 4, 5), True).coordinates == (0, 3, 4)
    assert point_at((4, 3, 0), (1, 4, 5), True).coordinates == (0, 3, 4)


@pytest.mark.parametrize("place", [(5, 0, 0), (0, 4, 0), (0, 0, 3), (-1, 0, 0), (0, 0), (10**30, 0, 0)])
def test_a_point_lies_in_the_image(place):
    with pytest.raises(InteractionError, match=r"is not inside the image of \[5, 4, 3\] voxels"):
        point_at(place, (3, 4, 5), True)
