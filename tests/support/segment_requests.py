"""Requests for tasks and transforms, as the server makes them of what clients send."""

from __future__ import annotations

from typing import Any

from lib.server.upstream.viewer_params import ViewerParams, read_params
from lib.transforms.request import REQUEST, SegmentOptions, SegmentRequest, Source, ViewerPrompts
from lib.transforms.sam_input import SAMPrompts


def viewer_request(
    image: Any, *, model: str = "sam_tiny", client: str | None = None, sent_label: str | None = None, **params: Any
) -> dict[str, Any]:
    """The dictionary for a task, of a viewer's ``params``."""
    sent = read_params(ViewerParams, params)
    return sent.request(model=model, image=image, client=client, sent_label=sent_label).as_monai()


def viewer_prompts_of(params: dict[str, Any]) -> ViewerPrompts:
    """The prompts of a viewer's ``params``."""
    found = read_params(ViewerParams, params).request(model="sam_tiny", image="").prompts
    assert isinstance(found, ViewerPrompts)
    return found


def rest_data(image: Any, sam_input: dict[str, Any]) -> dict[str, Any]:
    """The data dictionary of a REST request whose image is loaded."""
    return {"image": image, REQUEST: SegmentRequest(Source.REST, "sam_tiny", "", SAMPrompts.model_validate(sam_input))}


def data_with(image: Any = None, **options: Any) -> dict[str, Any]:
    """The data dictionary of a viewer's request with these options, whose image is loaded."""
    options_ = SegmentOptions(**options)
    return {"image": image, REQUEST: SegmentRequest(Source.VIEWER, "sam_tiny", "", options=options_)}
