"""``GET …/preview``: what a click would mark, for a page to show while the pointer moves. Nothing is stored.

It is there only if it is known at once: the image and the slice's embedding are in memory, and nobody segments. Else
the answer is 204, and the slice is encoded in the background, so that the next preview, or the click, finds its
embedding.
"""

import io
import threading
from collections.abc import Callable
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from PIL import Image
from pydantic import FiniteFloat

from lib.imaging.image import MedicalImage, Window
from lib.infers.prefetch import Prefetcher
from lib.sam.engine import Engine
from lib.sam.prompts import Prompts
from lib.server.viewing import Version, Viewed, errors, in_memory, of_datastore, of_session
from lib.transforms.request import AUTO
from lib.transforms.sam_input import WindowInput
from lib.transforms.window import choose_window, windowed_frame

router = APIRouter(tags=["Viewing"], responses=errors())


class Previews:
    """What clicks would mark. Thread-safe; one is made at a time.

    Args:
        engine: Has the models and the embeddings.
        ahead: Encodes slices in the background.
    """

    def __init__(self, engine: Engine, ahead: Prefetcher) -> None:
        self._engine = engine
        self._ahead = ahead
        self._making = threading.Lock()

    def of(
        self, image: MedicalImage, k: int, point: tuple[int, int], model: str, window: Window | str, owner: str
    ) -> np.ndarray | None:
        """Return what a foreground point would mark.

        Args:
            image: The image.
            k: Its frame.
            point: Column and row.
            model: Its name; empty: the default one.
            window: As of :func:`~lib.transforms.window.choose_window`.
            owner: For whom slices are encoded ahead.

        Returns:
            ``(rows, columns)`` bool; None if it is not known at once, or the model takes no points.
        """
        model = model or self._engine.default_model
        spec = self._engine.specs.get(model)
        if spec is None or "point" not in spec.prompts or self._engine.state(model) != "ready":
            return None
        if not self._making.acquire(blocking=False):
            return None
        try:
            predictor = self._engine.predictor(model)
            embedding = predictor.known_embedding(windowed_frame(image, k, choose_window(image, k, window)[0]))
            if embedding is None:
                self._ahead.looked_at(model, owner, image, k, window)
                return None
            [prediction] = predictor.decode(embedding, [Prompts.from_clicks([point])], multimask=spec.point_candidates)
            return prediction.masks[0]
        finally:
            self._making.release()


Frame = Annotated[int, Query(ge=0, description="Of the image, from 0")]
Column = Annotated[int, Query(ge=0, description="Of the frame as it is stored, from 0")]
Row = Annotated[int, Query(ge=0, description="Likewise")]
Model = Annotated[str, Query(max_length=100, description="A model that takes points; without it the default one")]
Center = Annotated[
    FiniteFloat | None, Query(description="Of a window in the image's units, with `width`; else a suitable one")
]
Width = Annotated[FiniteFloat | None, Query(gt=0)]


def _add_route(path: str, what: str, find: Callable[..., Viewed]) -> None:
    """Add the route for one kind of image; arguments as of the routes in :mod:`lib.server.viewing`."""

    @router.get(
        path + "/preview",
        summary=f"What a click on {what} would mark, if that is known at once",
        response_class=Response,
        responses={
            200: {"content": {"image/png": {}}, "description": "Of the frame's size: 255 on the object, else 0"},
            204: {"description": "It is not known at once; a later request may be answered"},
        },
    )
    def get_preview(
        request: Request,
        viewed: Annotated[Viewed, Depends(find)],
        version: Version,
        frame: Frame,
        x: Column,
        y: Row,
        model: Model = "",
        center: Center = None,
        width: Width = None,
    ) -> Response:
        """Return the mask of one foreground point; nothing is stored, and nobody waits for it."""
        image = in_memory(viewed, request.app.state.load_image, version)
        if image is None or request.app.state.admission.count:
            return Response(status_code=204)
        columns, rows, frames = image.ijk_shape
        if frame >= frames or x >= columns or y >= rows:
            raise HTTPException(
                422, f"({x}, {y}) on frame {frame} is not in the image: {columns}×{rows}, {frames} frames"
            )
        window: Window | str = AUTO
        if center is not None and width is not None:
            window = WindowInput(center=center, width=width).as_window()
        previews: Previews = request.app.state.previews
        mask = previews.of(image, frame, (x, y), model, window, f"{viewed.user.username}|preview")
        if mask is None:
            return Response(status_code=204)
        png = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * 255).save(png, "PNG", compress_level=1)
        return Response(png.getvalue(), media_type="image/png")


_add_route("/images/{image}", "an image of the datastore", of_datastore)
_add_route("/session/{session_id}", "the image of a session", of_session)
