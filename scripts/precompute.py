"""Encodes whole studies ahead of time into the folder where the server looks embeddings up; see --help."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydicom.datadict import tag_for_keyword
from tqdm import tqdm

from lib.base.clock import Clock, use_clock
from lib.dicomweb.connection import DicomWebError
from lib.dicomweb.datastore import AddressError, open_dicomweb
from lib.imaging.image import ImageError
from lib.sam.embeddings.disk import EmbeddingFiles
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointError
from lib.sam.models.model_specs import ModelSpecsError, known_models
from lib.sam.models.registry import DEFAULT_MODEL, UnknownModelError, get_spec
from lib.sam.predictor import Predictor
from lib.sam.runtimes.choice import PRECISIONS
from lib.sam.runtimes.runtime import RuntimeUnavailableError
from lib.server.observe.log_hygiene import clean_logs
from lib.server.options import ServerOptions
from lib.studies.study_files import image_suffixes, split_name
from lib.transforms.load import LoadMedicalImage
from lib.transforms.request import AUTO
from lib.transforms.window import PRESETS, choose_window, windowed_frame

Images = dict[str, Callable[[], str | Path]]
"""By id, in order: what gives the file or the folder of DICOM files that the server would read."""

Ending = Literal["complete", "interrupted", "bound reached", "not writable"]


class UsageError(ValueError):
    """It cannot be done as asked; the message says why and what would do."""


REFUSALS = (
    *(UsageError, AddressError, UnknownModelError, ModelSpecsError),
    *(CheckpointError, RuntimeUnavailableError),
)
"""Errors of what was asked for, whose messages say what to do."""


class NoRoomError(RuntimeError):
    """No more embeddings can be kept.

    Args:
        ending: Why.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending: Ending = ending


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/precompute",
        description="Encodes every slice of whole studies ahead of time, so that the first click on an image is as "
        "fast as the next. What is there already is left out: call it again to go on. It runs at low priority.",
        epilog="A DICOMweb server's login is taken from MONAI_LABEL_DICOMWEB_USERNAME and _PASSWORD, as the server "
        "does. Ends with 0 if all is there now, 1 if something could not be read or kept, 2 for a wrong call, 130 "
        "if it was interrupted.",
    )
    parser.add_argument("--studies", metavar="DIR|URL", required=True, help="as the server gets them")
    parser.add_argument("--models", metavar="A,B", default=DEFAULT_MODEL, help="models by name (default: %(default)s)")
    parser.add_argument("--model-specs", metavar="FILE", type=Path, help="your own models, as for --conf model_specs")
    parser.add_argument(
        "--window", default=AUTO, choices=[AUTO, *PRESETS], help="the window to click in (default: %(default)s)"
    )
    parser.add_argument("--series", metavar="UID", nargs="+", help="only these: series or, of a folder, files by name")
    parser.add_argument(
        "--query",
        metavar="KEY=VALUE",
        nargs="+",
        default=[],
        help="only series that a DICOMweb server finds by these, e.g. StudyDate=20260101-20260131 Modality=CT",
    )
    parser.add_argument("--limit", metavar="N", type=int, help="the first N images or series only")
    parser.add_argument(
        "--embeddings",
        metavar="DIR",
        type=Path,
        default=MODEL_FOLDER.parent / "embeddings",
        help="where embeddings are kept: the server's --conf embeddings (default: apps/sam_app/embeddings)",
    )
    parser.add_argument(
        "--embeddings-max-mb",
        metavar="MB",
        type=float,
        default=ServerOptions.embeddings_max_mb,
        help="how much of them: the server's --conf embeddings_max_mb (default: %(default)s)",
    )
    parser.add_argument("--model-dir", metavar="DIR", type=Path, default=MODEL_FOLDER, help="the checkpoints' folder")
    parser.add_argument("--device", help="cpu or cuda: the server's; embeddings of one are not used on the other")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="the server's --conf precision: embeddings of another are not used"
    )
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    return parser


@dataclass
class Summary:
    """What was done.

    Args:
        models: By name; a slice is counted once for each.
        embeddings: Their folder.
        images: Those that are done: images or series.
        encoded: Slices that were encoded.
        present: Slices whose embedding was there already.
        bytes: Of the embeddings of all these slices.
        seconds: How long it took.
        unread: Why an image was given up, by its id.
        ending: ``complete`` if every image was tried.
    """

    models: list[str]
    embeddings: str
    images: int = 0
    encoded: int = 0
    present: int = 0
    bytes: int = 0
    seconds: float = 0
    unread: dict[str, str] = field(default_factory=dict)
    ending: Ending = "complete"

    @property
    def slices_per_second(self) -> float:
        """Encoded or looked up, reading included."""
        return (self.encoded + self.present) / self.seconds if self.seconds else 0

    @property
    def status(self) -> int:
        """The exit status."""
        if self.ending == "interrupted":
            return 130
        return 0 if self.ending == "complete" and not self.unread else 1

    def as_json(self) -> str:
        """One object, with ``slices_per_second``."""
        return json.dumps({**asdict(self), "slices_per_second": round(self.slices_per_second, 2)}, indent=2)

    def as_text(self) -> str:
        """One line."""
        return (
            f"{self.images} images with {', '.join(self.models)}: {self.encoded} slices encoded, {self.present} were "
            f"there already; {self.slices_per_second:.1f} slices/s, {self.bytes / 2**20:.0f} MB"
        )


class Precomputation:
    """Encodes images and keeps the embeddings on disk.

    Args:
        predictors: Of one engine, whose cache has ``files``.
        files: Where embeddings are kept.
        max_bytes: Bound on them.
        window: Preset to see the images in.
        summary: Is kept up to date.
    """

    def __init__(
        self, predictors: Sequence[Predictor], files: EmbeddingFiles, max_bytes: int, window: str, summary: Summary
    ) -> None:
        self._predictors = predictors
        self._files = files
        self._max_bytes = max_bytes
        self._window = window
        self._summary = summary
        self._load = LoadMedicalImage()
        self._sizes: dict[str, int] = {}

    def run(self, images: Images, bar: tqdm) -> None:
        """Encode all slices of all images, of each the middle one first, then outwards.

        Raises:
            NoRoomError: If no more embeddings can be kept.
        """
        for name, find in images.items():
            try:
                self._run_one(find, bar)
                self._summary.images += 1
            except NoRoomError:
                raise
            except Exception as error:  # whatever is wrong with one image, the others are still to be done
                self._summary.unread[name] = _reason(error)

    def _run_one(self, find: Callable[[], str | Path], bar: tqdm) -> None:
        image = self._load(find())
        bar.total = (bar.total or 0) + image.frame_count * len(self._predictors)
        for k in from_the_middle(image.frame_count):
            frame = windowed_frame(image, k, choose_window(image, k, self._window)[0])
            for predictor in self._predictors:
                self._keep(predictor, frame)
                bar.update()

    def _keep(self, predictor: Predictor, frame: Any) -> None:
        if self._summary.bytes + max(self._sizes.values(), default=0) > self._max_bytes:
            raise NoRoomError("bound reached")  # rather than push out what was just computed
        with use_clock(Clock()) as clock:
            embedding = predictor.encode(frame)
        self._files.flush()
        size = self._files.size(embedding.key)
        if size is None:
            raise NoRoomError("not writable")
        if "encode" in clock.stages:
            self._summary.encoded += 1
        else:
            self._summary.present += 1
        self._sizes[embedding.key] = size
        self._summary.bytes = sum(self._sizes.values())


def from_the_middle(count: int) -> list[int]:
    """The numbers of so many slices: the middle one, its neighbours, theirs, and so on."""
    middle = count // 2
    return sorted(range(count), key=lambda k: (abs(k - middle), k))


def _reason(error: Exception) -> str:
    """Why an image was given up, in words that tell nothing of a patient."""
    if isinstance(error, (ImageError, DicomWebError)):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"an unexpected {type(error).__name__}"


def find_images(studies: str, series: Sequence[str] | None, query: dict[str, str]) -> Images:
    """The images of a folder or the series of a DICOMweb server that the server would list, those chosen of them.

    Args:
        studies: A folder, or the URL of a DICOMweb root.
        series: Series Instance UIDs or, of a folder, names of files; None for all.
        query: What a DICOMweb server must find them by, besides the filter of MONAI Label's settings.

    Raises:
        UsageError: If there is no such folder, or a query for one.
        AddressError: If there is a login in the address.
        DicomWebError: If the DICOMweb server does not answer.
    """
    found: Images
    if studies.startswith(("http://", "https://")):
        store = open_dicomweb(studies.rstrip("/"), query)
        listed = store.list_images() if query or not series else [uid for uid in series if store.has_image(uid)]
        found = {uid: partial(store.series_folder, uid) for uid in listed}
    else:
        folder = Path(studies)
        if not folder.is_dir():
            raise UsageError(f"--studies {studies}: there is no such folder")
        if query:
            raise UsageError("--query is for a DICOMweb server")
        suffixes = image_suffixes()
        names = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
        found = {name: partial(folder.joinpath, name) for name in names if split_name(name, suffixes)[1]}
    return {name: found.get(name, _missing) for name in series} if series else found


def _missing() -> Path:
    raise ImageError("there is no such image")


def _query(pairs: Sequence[str]) -> dict[str, str]:
    query = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or tag_for_keyword(key) is None:
            raise UsageError(f"--query {pair}: it must be a DICOM keyword, =, and what to look for")
        query[key] = value
    return query


def precompute(arguments: argparse.Namespace) -> Summary:
    """Does what the command line says.

    Raises:
        UsageError, AddressError, UnknownModelError, ModelSpecsError: If it cannot be done as asked.
        CheckpointError, RuntimeUnavailableError: If a model cannot be used.
        DicomWebError: If the DICOMweb server does not list its series.
    """
    names = [name.strip() for name in arguments.models.split(",") if name.strip()]
    max_bytes = int(arguments.embeddings_max_mb * 2**20)
    if not names or max_bytes <= 0 or (arguments.limit is not None and arguments.limit < 1):
        raise UsageError("--models needs a name, --embeddings-max-mb and --limit a number above 0")
    query = _query(arguments.query)
    models = known_models(arguments.model_specs)
    specs = [get_spec(name, models) for name in names]
    files = EmbeddingFiles(arguments.embeddings.expanduser().resolve(), max_bytes)
    engine = Engine(
        specs,
        arguments.model_dir,
        device=arguments.device,
        cache_bytes=0,
        precision=arguments.precision,
        embedding_files=files,
    )
    predictors = [engine.predictor(name) for name in engine.specs]
    images = find_images(arguments.studies, arguments.series, query)
    images = dict(islice(images.items(), arguments.limit))
    summary = Summary(models=list(engine.specs), embeddings=str(arguments.embeddings))
    started = time.monotonic()
    with tqdm(total=0, unit="slice", disable=not sys.stderr.isatty()) as bar:
        try:
            Precomputation(predictors, files, max_bytes, arguments.window, summary).run(images, bar)
        except NoRoomError as error:
            summary.ending = error.ending
        except KeyboardInterrupt:
            summary.ending = "interrupted"
    files.flush()
    summary.seconds = round(time.monotonic() - started, 3)
    return summary


_ENDINGS: dict[Ending, str] = {
    "interrupted": "interrupted: what is done is kept, and left out when it is called again",
    "bound reached": "the rest was not encoded, as it would push out what was: all embeddings together may take "
    "{bound:g} MB. Ask for less, or give this and the server more (--embeddings-max-mb, --conf embeddings_max_mb)",
    "not writable": "the rest was not encoded, as embeddings cannot be kept in {folder}",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; the exit status is that of the epilog in ``--help``."""
    arguments = make_parser().parse_args(argv)
    try:
        summary = precompute(arguments)
    except REFUSALS as error:
        print(f"scripts/precompute: {error}", file=sys.stderr)
        return 2
    except DicomWebError as error:
        print(f"scripts/precompute: {error}", file=sys.stderr)
        return 1
    for name, reason in summary.unread.items():
        print(f"scripts/precompute: {name} was not read: {reason}", file=sys.stderr)
    if summary.ending != "complete":
        why = _ENDINGS[summary.ending].format(bound=arguments.embeddings_max_mb, folder=summary.embeddings)
        print(f"scripts/precompute: {why}", file=sys.stderr)
    print(summary.as_json() if arguments.json else summary.as_text())
    return summary.status


if __name__ == "__main__":
    os.nice(10)
    logging.basicConfig(format="scripts/precompute: %(message)s", level=logging.WARNING)
    clean_logs()
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before there was anything to keep
        sys.exit(130)
