"""The server's options, from ``--conf KEY VALUE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lib.imaging.decoding.memory_budget import budget
from lib.imaging.readers import DEFAULT_MAX_FRAMES, DEFAULT_MAX_PIXELS
from lib.infers.ahead import DEFAULT_SLICES
from lib.sam.embeddings.disk import EmbeddingFiles
from lib.sam.runtimes.choice import PRECISIONS
from lib.sam.runtimes.runtime import Precision
from lib.server.auth.api_keys import KeyFileError
from lib.server.auth.key_file import KeyFile
from lib.transforms.limits import DEFAULT_MAX_PROMPTS, Limits


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
        max_frames: An image with more frames is refused.
        max_prompts: A request with more points and rectangles is refused.
        max_queue: Segmentation requests worked on or waiting; one more is answered 429.
        memory_mb: What the images of all requests may take together, while they are read and segmented.
        max_connections: Connections from one address at the same time; this machine's and proxies' count as no one's.
        max_seconds: How long a request's body may take to come in, and how long a segmentation may take.
        cors_origins: Origins of web pages that may call the server. With ``*`` no credentials are allowed.
        hosts: Names by which the server may be asked for, besides its addresses and its own; ``*``: any.
        api_keys: File of the API keys, made by ``scripts/keys``; None: there are none.
        audit_log: File of the audit log.
        embeddings: Folder of the embeddings that are kept on disk.
        datastore: Folder of the labels of studies that are read-only.
        audit_max_mb: Where it is put aside and a new one begun; 0 never does.
        ahead: Slices that are encoded for a user before they are asked for; 0: none.
        precision: Of the image encoders' arithmetic; None: what suits the device.
        compile: Whether PyTorch compiles the encoders, on a GPU: minutes at start, faster afterwards.
        embeddings_max_mb: The embeddings that were not used for longest are deleted above this total; 0 keeps none.
    """

    results: Path
    audit_log: Path
    embeddings: Path
    datastore: Path
    results_max_days: float = 30
    results_max_mb: float = 10_240
    max_upload_mb: float = 512
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_frames: int = DEFAULT_MAX_FRAMES
    max_prompts: int = DEFAULT_MAX_PROMPTS
    max_queue: int = 16
    memory_mb: float = budget.total / 2**20
    max_connections: int = 200
    max_seconds: float = 300
    cors_origins: tuple[str, ...] = ("http://localhost", "http://localhost:3000")
    hosts: tuple[str, ...] = ()
    api_keys: Path | None = None
    audit_max_mb: float = 50
    embeddings_max_mb: float = 8192
    ahead: int = DEFAULT_SLICES
    precision: Precision | None = None
    compile: bool = False

    @classmethod
    def from_conf(cls, conf: Mapping[str, str], app_dir: Path) -> ServerOptions:
        """Options from MONAI Label's ``conf``; what is not named keeps its default.

        Raises:
            OptionError: For a value that is not a number, or negative; for a file of keys that cannot be used.
        """
        return cls(
            results=Path(conf.get("results") or app_dir / "results").expanduser().resolve(),
            audit_log=Path(conf.get("audit_log") or app_dir / "logs" / "audit.jsonl").expanduser().resolve(),
            embeddings=Path(conf.get("embeddings") or app_dir / "embeddings").expanduser().resolve(),
            datastore=Path(conf.get("datastore") or app_dir / "datastore").expanduser().resolve(),
            results_max_days=_number(conf, "results_max_days", cls.results_max_days),
            results_max_mb=_number(conf, "results_max_mb", cls.results_max_mb),
            max_upload_mb=_number(conf, "max_upload_mb", cls.max_upload_mb),
            max_pixels=int(_number(conf, "max_pixels", cls.max_pixels)),
            max_frames=int(_number(conf, "max_frames", cls.max_frames)),
            max_prompts=int(_number(conf, "max_prompts", cls.max_prompts)),
            max_queue=int(_number(conf, "max_queue", cls.max_queue)),
            memory_mb=_positive(conf, "memory_mb", cls.memory_mb),
            max_connections=int(_positive(conf, "max_connections", cls.max_connections)),
            max_seconds=_positive(conf, "max_seconds", cls.max_seconds),
            cors_origins=_words(conf, "cors_origins", cls.cors_origins),
            hosts=_words(conf, "hosts", cls.hosts),
            api_keys=_key_file(conf),
            audit_max_mb=_number(conf, "audit_max_mb", cls.audit_max_mb),
            embeddings_max_mb=_number(conf, "embeddings_max_mb", cls.embeddings_max_mb),
            ahead=int(_number(conf, "ahead", cls.ahead)),
            precision=cast("Precision | None", _choice(conf, "precision", PRECISIONS)),
            compile=_choice(conf, "compile", ("true", "false")) == "true",
        )

    def embedding_files(self) -> EmbeddingFiles | None:
        """The embeddings kept on disk; None if none are to be."""
        max_bytes = int(self.embeddings_max_mb * 2**20)
        return EmbeddingFiles(self.embeddings, max_bytes) if max_bytes else None

    @property
    def limits(self) -> Limits:
        """What a request may ask for at most."""
        return Limits(max_pixels=self.max_pixels, max_frames=self.max_frames, max_prompts=self.max_prompts)


def _key_file(conf: Mapping[str, str]) -> Path | None:
    path = conf.get("api_keys")
    if path is None:
        return None
    file = KeyFile(Path(path).expanduser())
    try:
        file.read()
    except KeyFileError as error:
        raise OptionError(f"--conf api_keys: {error}") from None
    return file.path


def _words(conf: Mapping[str, str], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Names or origins, separated by commas."""
    text = conf.get(key)
    return default if text is None else tuple(word.strip().rstrip("/") for word in text.split(",") if word.strip())


def _choice(conf: Mapping[str, str], key: str, choices: Sequence[str]) -> str | None:
    text = conf.get(key)
    if text is not None and text.lower() not in choices:
        raise OptionError(f"--conf {key} can be {', '.join(choices)}, not {text!r}")
    return None if text is None else text.lower()


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


def _positive(conf: Mapping[str, str], key: str, default: float) -> float:
    value = _number(conf, key, default)
    if value == 0:
        raise OptionError(f"--conf {key} must be more than 0")
    return value
