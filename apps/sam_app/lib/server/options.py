"""The server's options, from ``--conf KEY VALUE``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.imaging.readers import DEFAULT_MAX_PIXELS


class OptionError(ValueError):
    """An option's value cannot be used; the message says which and what it can be."""


@dataclass(frozen=True)
class ServerOptions:
    """Options of the server and limits on what clients send.

    Args:
        results: Folder of the results.
        results_max_days: Older results are deleted; 0 keeps them whatever their age.
        results_max_mb: The oldest results are deleted above this total; 0 keeps them whatever their size.
        max_upload_mb: A larger upload is refused.
        max_pixels: An image with more, that is frames x rows x columns, is refused.
        max_queue: Segmentation requests worked on or waiting; one more is answered 429.
        cors_origins: Origins of web pages that may call the server. With ``*`` no credentials are allowed.
    """

    results: Path
    results_max_days: float = 30
    results_max_mb: float = 10_240
    max_upload_mb: float = 512
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_queue: int = 16
    cors_origins: tuple[str, ...] = ("http://localhost", "http://localhost:3000")

    @classmethod
    def from_conf(cls, conf: Mapping[str, str], app_dir: Path) -> ServerOptions:
        """Options from MONAI Label's ``conf``; what is not named keeps its default.

        Raises:
            OptionError: For a value that is not a number, or negative.
        """
        origins = conf.get("cors_origins")
        return cls(
            results=Path(conf.get("results") or app_dir / "results").expanduser().resolve(),
            results_max_days=_number(conf, "results_max_days", cls.results_max_days),
            results_max_mb=_number(conf, "results_max_mb", cls.results_max_mb),
            max_upload_mb=_number(conf, "max_upload_mb", cls.max_upload_mb),
            max_pixels=int(_number(conf, "max_pixels", cls.max_pixels)),
            max_queue=int(_number(conf, "max_queue", cls.max_queue)),
            cors_origins=cls.cors_origins
            if origins is None
            else tuple(origin.strip().rstrip("/") for origin in origins.split(",") if origin.strip()),
        )


def _number(conf: Mapping[str, str], key: str, default: float) -> float:
    text = conf.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise OptionError(f"--conf {key} must be a number of at least 0, not {text!r}")
    return value
