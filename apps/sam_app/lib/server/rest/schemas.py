"""The REST routes' request and responses, as documented in ``/openapi.json``."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from lib.server.rest.timestamps import parse_timestamp
from lib.transforms.sam_input import SAMPrompts


def _timestamp(value: object) -> Decimal:
    """Return a timestamp from a number or text.

    Raises:
        ValueError: If it is no timestamp.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValueError("a timestamp is a number of seconds, such as 1732288000.123456")
    return parse_timestamp(repr(value) if isinstance(value, float) else str(value))


Timestamp = Annotated[
    Decimal,
    BeforeValidator(_timestamp),
    PlainSerializer(float, return_type=float),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "examples": [1732288000.12]}),
]


class SAMInput(SAMPrompts):
    """What to segment. Without any prompt every object that is found gets its own number.

    The image is the form's `file`, or one that the server has: `image`, `session`, or that of an earlier result.

    With `refine` the prompts are added to those of an earlier result, whose image, frame, window, model and label are
    used where this request names none. Objects that get more prompts are refined from their earlier mask.

    With `start`, likewise, but of the earlier result's prompts nothing is used: its mask is corrected as far as the
    prompts of this request ask for it, and no further.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "SAM",
                    "rectangles": [{"startX": 40, "startY": 60, "width": 120, "height": 90}],
                    "positive_points": [{"x": 100, "y": 100}],
                    "negative_points": [{"x": 150, "y": 140}],
                }
            ]
        },
    )

    image: str | None = Field(
        default=None,
        max_length=1000,
        description="Instead of `file`: the id of an image of the datastore, as in `GET /datastore/?output=all`",
    )
    session: str | None = Field(
        default=None, max_length=100, description="Instead of `file`: the id of a session of `PUT /session/`"
    )
    version: str | None = Field(
        default=None,
        max_length=64,
        description="With `image` or `session`: as in what `GET /images/{image}` says; refused if it is another by now",
    )
    refine: Timestamp | None = Field(
        default=None, description="The result to refine. Its image is used again, so that `file` can be omitted"
    )
    start: Timestamp | None = Field(
        default=None,
        description="The result whose mask is started from: points correct it. Its image and frame are used again",
    )
    candidate: Annotated[int, Field(ge=0, le=2)] | None = Field(
        default=None, description="With `refine` or `start`: which of its candidates; absent: the best one"
    )

    def prompts(self, **changes: object) -> SAMPrompts:
        """Return the prompts and options with these changes, without those about an earlier result."""
        fields = {name: getattr(self, name) for name in SAMPrompts.model_fields}
        return SAMPrompts.model_construct(**{**fields, **changes})


class Accepted(BaseModel):
    """The response to a segmentation request."""

    timestamp: float = Field(
        description="Unix time in seconds with microseconds; names the result in the other routes",
        examples=[1732288000.12],
    )


class NotFinished(BaseModel):
    """The response while an accepted request is not finished."""

    timestamp: float
    status: Literal["queued"] = "queued"


class Queue(BaseModel):
    """Counts of segmentation requests."""

    running: int = Field(description="Being processed or waiting")
    limit: int


class WorkerCount(BaseModel):
    """Processes of Ray Serve that encode images."""

    running: int = Field(description="Those that can encode now")
    wanted: int


Status = Literal["ok", "degraded", "loading", "error"]


class ModelFacts(BaseModel):
    """What is to be known of a model before it is used."""

    license: str = Field(description="Under which its weights may be used: an SPDX identifier, or words")
    research_only: bool = Field(description="Whether for research and teaching only, not for patients' care")
    prompts: list[str] = Field(description="Kinds of prompts that it takes: point, box, mask (an earlier answer)")


class Health(BaseModel):
    """The server's state."""

    status: Status = Field(description="ok and degraded: it segments; degraded: some of its background work failed")
    detail: str | None = Field(default=None, description="Why the status is not ok")
    version: str
    models: dict[str, str] = Field(description="Each model's state: ready, not loaded, no checkpoint")
    model_facts: dict[str, ModelFacts] = Field(description="Of each model")
    default_model: str
    device: str
    runtime: str
    uptime_seconds: float
    queue: Queue
    workers: WorkerCount | None = Field(default=None, description="None where this process encodes images itself")
