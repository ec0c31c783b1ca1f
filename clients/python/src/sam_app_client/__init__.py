"""Client of the SAM app for MONAI Label: segment medical images over HTTP, with numpy arrays on both sides.

:class:`Client` blocks, :class:`AsyncClient` is awaited. ``docs/python.md`` of the server's repository is the tutorial.
"""

from sam_app_client.clients import AsyncClient, AsyncResult, Client, Result
from sam_app_client.datastore import LabelInput
from sam_app_client.errors import (
    ApiError,
    ConnectionFailedError,
    NotFinishedError,
    SamAppError,
    VersionMismatchError,
)
from sam_app_client.files import ImageInput, MaskInput
from sam_app_client.prompts import Lasso, Prompts, Scribble, StartingPrompts, VolumePrompts
from sam_app_client.results import Health, LearnedModel, LearnedVersion, StoredImage, Training, Volume
from sam_app_client.version import VERSION as __version__

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncResult",
    "Client",
    "ConnectionFailedError",
    "Health",
    "ImageInput",
    "LabelInput",
    "Lasso",
    "LearnedModel",
    "LearnedVersion",
    "MaskInput",
    "NotFinishedError",
    "Prompts",
    "Result",
    "SamAppError",
    "Scribble",
    "StartingPrompts",
    "StoredImage",
    "Training",
    "VersionMismatchError",
    "Volume",
    "VolumePrompts",
    "__version__",
]
