"""The fields of nnInteractive's messages, under the protocol's own names, and what they mean.

Places are indices of the array's three axes as the client sent it. They may be floats, and outside of the image, as
viewers let their users draw there.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field

from lib.sam.volume.interactions import Box, Lasso, Point, Scribble
from lib.server.http.errors import InteractionError
from lib.server.interactive.drawings import Shape, drawing
from lib.server.interactive.marked_image import known_spacing
from lib.server.nninteractive.container import Packed

_Place = Annotated[float, Field(allow_inf_nan=False)]
_Range = tuple[_Place, _Place]
_Ranges = tuple[_Range, _Range, _Range]
_Size = Annotated[int, Field(gt=0)]


class ImageProperties(BaseModel):
    """What is known of an image beside its values: its spacing in mm, in the order of the array's axes."""

    spacing: tuple[float, float, float] | None = None


class ImageMeta(BaseModel):
    """``X-Meta`` of ``/set_image``."""

    image_properties: ImageProperties = ImageProperties()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The spacing in mm, positive; 1 where it is not known."""
        return known_spacing(self.image_properties.spacing or (1.0, 1.0, 1.0))


class TargetBuffer(BaseModel):
    """Body of ``/set_target_buffer``: the client's array for the mask."""

    shape: tuple[_Size, _Size, _Size]
    dtype: Literal["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


class Autozoom(BaseModel):
    """Body of ``/set_do_autozoom``."""

    do_autozoom: bool


class Interaction(BaseModel):
    """What all prompts have: whether they are on the object or beside it, and whether a mask is wanted at once."""

    include_interaction: bool
    run_prediction: bool = True


class PointMessage(Interaction):
    """Body of ``/add_point_interaction``."""

    coordinates: tuple[_Place, _Place, _Place]

    def prompt(self, shape: Shape) -> Point:
        """Return the nearest voxel of an image of this shape."""
        c0, c1, c2 = (min(max(round(place), 0), size - 1) for place, size in zip(self.coordinates, shape, strict=True))
        return Point((c0, c1, c2), self.include_interaction)


class BoxMessage(Interaction):
    """Body of ``/add_bbox_interaction``."""

    bbox_coords: _Ranges

    def prompt(self, shape: Shape) -> Box:
        """Return the box, clipped to an image of this shape and at least one voxel thick.

        Raises:
            InteractionError: If it has no volume.
        """
        bounds = []
        for (low, high), size in zip(self.bbox_coords, shape, strict=True):
            if low >= high:
                raise InteractionError(f"the box from {low:g} to {high:g} has no volume")
            first = min(max(round(low), 0), size - 1)
            bounds.append((first, max(first + 1, min(round(high), size))))
        return Box(tuple(bounds), self.include_interaction)


class DrawingMeta(Interaction):
    """``X-Meta`` of a scribble or lasso: where the drawn mask lies; null: it has the image's shape."""

    interaction_bbox: _Ranges | None = None

    def prompt(self, kind: type[Scribble] | type[Lasso], packed: Packed, shape: Shape) -> Scribble | Lasso:
        """Return what was drawn on an image of this shape, cut to what it covers.

        Raises:
            ContainerError: If the mask cannot be unpacked.
            InteractionError: If it has another shape than its box or the image, lies outside of the image, or is a
                lasso that is not in one plane.
        """
        corner = (0, 0, 0)
        if self.interaction_bbox is not None:
            bounds = [(round(low), round(high)) for low, high in self.interaction_bbox]
            if not all(0 <= low < high <= size for (low, high), size in zip(bounds, shape, strict=True)):
                raise InteractionError(f"the box {bounds} is not inside the image of {list(shape)} voxels")
            corner = (bounds[0][0], bounds[1][0], bounds[2][0])
            shape = (bounds[0][1] - corner[0], bounds[1][1] - corner[1], bounds[2][1] - corner[2])
        return drawing(kind, mask_of(packed, shape), self.include_interaction, corner)


class SegmentationMeta(BaseModel):
    """``X-Meta`` of ``/add_initial_seg_interaction``."""

    run_prediction: bool = False


class Claimed(BaseModel):
    """Answer of ``/claim``."""

    lease_token: str
    idle_timeout_seconds: float
    liveness_timeout_seconds: float
    max_sessions: int


class Capabilities(BaseModel):
    """Answer of ``/capabilities``; those that a local engine alone has are empty."""

    supported_interactions: dict[str, bool]
    channel_mapping: dict[str, int] = {}
    num_interaction_channels: int = 0
    supports_initial_label: bool
    supports_zero_shot_label_refinement: bool
    preferred_scribble_thickness: tuple[int, int, int] = (2, 2, 2)
    interaction_decay: float | None = None
    inference_session_version: str
    license: str
    supports_undo: bool = True
    do_autozoom: bool = True


def mask_of(packed: Packed, shape: Shape) -> np.ndarray:
    """Return a mask that a client sent, bool of this shape: what is not zero.

    Raises:
        ContainerError: If it cannot be unpacked.
        InteractionError: If it has another shape.
    """
    if packed.shape != shape:
        raise InteractionError(f"the mask has the shape {list(packed.shape)}; it must have {list(shape)}")
    values = packed.unpacked()
    return values if values.dtype == bool else values != 0
