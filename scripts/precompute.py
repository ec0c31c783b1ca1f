"""Encodes whole studies ahead of time into the folder where the server looks embeddings up; see --help."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.datadict import tag_for_keyword
from tqdm import tqdm

from lib.base.clock import Clock, use_clock
from lib.dicomweb.connection import DicomWebError
from lib.dicomweb.datastore import AddressError, DicomWebStore, open_dicomweb
from lib.imaging.image import ImageError, MedicalImage
from lib.imaging.image_cache import identity_of
from lib.sam.embeddings.disk import EmbeddingFiles
from lib.sam.engine import Engine, chosen_device
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointError
from lib.sam.models.model_specs import ModelSpecsError, known_models
from lib.sam.models.registry import DEFAULT_MODEL, ModelSpec, UnknownModelError, get_spec
from lib.sam.predictor import Predictor
from lib.sam.runtimes.choice import PRECISIONS
from lib.sam.runtimes.remote import Workers
from lib.sam.runtimes.runtime import RuntimeUnavailableError
from lib.server.observe.log_hygiene import clean_logs
from lib.server.options import ServerOptions
from lib.studies.study_files import image_suffixes, split_name
from lib.transforms.load import LoadMedicalImage
from lib.transforms.request import AUTO
from lib.transforms.window import PRESETS, choose_window, windowed_frame
from lib.workers.place import WorkersPlace
from lib.workers.ray_workers import WorkersStartError, workers_at
from precomputed_images import Done, Journal, name_of

_MOST_SECONDS = 600.0
"""How long a slice may take, with the wait until there is a worker."""

_MOST_THREADS = 512
_TELL_EVERY_S = 60.0
"""Interval at which it is told how far it is, where no bar can be drawn."""


@dataclass(frozen=True)
class Source:
    """Where an image comes from.

    Args:
        find: Returns the file or the folder of DICOM files that the server would read.
        state: Returns what tells whether the image has changed, without reading or fetching it; None if that cannot be
            told, or there is nothing to read yet.
    """

    find: Callable[[], str | Path]
    state: Callable[[], str | None]


Images = dict[str, Source]
"""By id, in order."""

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
    parser.add_argument(
        "--workers",
        metavar="PLACE",
        type=WorkersPlace.parse,
        help="processes of Ray Serve that encode: as for --conf workers; without it "
        "this process does, one slice at a time",
    )
    parser.add_argument(
        "--worker-cores", metavar="N", type=int, default=ServerOptions.worker_cores, help="cores of each worker"
    )
    parser.add_argument(
        "--again", action="store_true", help="look at every slice, also of images that were done and have not changed"
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
        unchanged: Of these, those that an earlier call had done, and that were not read again.
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
    unchanged: int = 0
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


@dataclass(eq=False)
class _Image:
    """An image that is worked on.

    Args:
        name: Its id.
        state: As of :class:`Source`, before it was read.
        left: How many of its slices are not done, each counted for each model.
        found: Keys and sizes of its embeddings, by model.
        has_failed: Whether it was given up.
    """

    name: str
    state: str | None
    left: int = 0
    found: dict[Predictor, dict[str, int]] = field(default_factory=dict)
    has_failed: bool = False


@dataclass(frozen=True, eq=False)
class _Slice:
    """A slice that is being encoded, by one of the threads."""

    image: _Image
    predictor: Predictor
    clock: Clock
    embedding: Future[tuple[str, int | None]]


class Precomputation:
    """Encodes images and keeps the embeddings on disk.

    Twice as many slices are under way as can be encoded at once, so that each worker has its next one; meanwhile the
    next image is read. Nothing else is in memory.

    Args:
        engine: Its cache has ``files``.
        files: Where embeddings are kept.
        max_bytes: Bound on them.
        studies: Where the images are from.
        window: Preset to see the images in.
        journal: What earlier calls have done.
        summary: Is kept up to date.
        again: Whether to look at what they have done, too.
    """

    def __init__(
        self,
        engine: Engine,
        files: EmbeddingFiles,
        max_bytes: int,
        *,
        studies: str,
        window: str,
        journal: Journal,
        summary: Summary,
        again: bool = False,
    ) -> None:
        self._engine = engine
        self._predictors = [engine.predictor(name) for name in engine.specs]
        self._files = files
        self._max_bytes = max_bytes
        self._studies = studies
        self._window = window
        self._journal = journal
        self._summary = summary
        self._again = again
        self._load = LoadMedicalImage()
        self._counted: set[str] = set()
        self._largest = 0
        self._slices: deque[_Slice] = deque()
        self._told = time.monotonic()

    def run(self, images: Images, bar: tqdm) -> None:
        """Encode all slices of all images, of each the middle one first, then outwards.

        Raises:
            NoRoomError: If no more embeddings can be kept.
        """
        with ThreadPoolExecutor(_MOST_THREADS, "encode") as threads:
            try:
                for image, reading in self._read(images):
                    try:
                        self._encode(image, reading.result(), threads)
                    except NoRoomError:
                        raise
                    except Exception as error:  # whatever is wrong with one image, the others are still to be done
                        self._give_up(image, error)
                    self._tell(bar)
                while self._slices:
                    self._finish_one()
                    self._tell(bar)
            finally:
                for one in self._slices:
                    one.clock.cancel()
                while self._slices:  # those that were done before that
                    with suppress(NoRoomError):
                        self._finish_one(is_ending=True)

    def _read(self, images: Images) -> Iterator[tuple[_Image, Future[MedicalImage]]]:
        """Yield the images that are to be looked at; while one is encoded the next is read."""

        def read(image: _Image, source: Source) -> MedicalImage:
            loaded = self._load(source.find())
            image.state = image.state or source.state()  # that of a series which has just been fetched
            return loaded

        ahead: deque[tuple[_Image, Future[MedicalImage]]] = deque()
        with ThreadPoolExecutor(1, "read") as reader:
            for name, source in images.items():
                image = _Image(name, source.state())
                if not self._is_done(image):
                    ahead.append((image, reader.submit(read, image, source)))
                if len(ahead) > 1:
                    yield ahead.popleft()
            yield from ahead

    def _is_done(self, image: _Image) -> bool:
        """Return whether an earlier call has done an image that is the same now, and count it."""
        if self._again or image.state is None:
            return False
        sizes: dict[str, int] = {}
        for predictor in self._predictors:
            done = self._journal.find(self._name(image, predictor))
            if done is None or done.state != image.state:
                return False
            found = {key: self._files.use(key) or 0 for key in done.keys}
            if sum(found.values()) != done.bytes:
                return False
            sizes |= found
        self._summary.images += 1
        self._summary.unchanged += 1
        self._summary.present += len(sizes)
        for key, size in sizes.items():
            self._count(key, size)
        return True

    def _name(self, image: _Image, predictor: Predictor) -> str:
        return name_of(self._studies, image.name, predictor.encoding_key, self._window)

    def _encode(self, image: _Image, loaded: MedicalImage, threads: ThreadPoolExecutor) -> None:
        image.left = loaded.frame_count * len(self._predictors)
        image.found = {predictor: {} for predictor in self._predictors}
        for k in from_the_middle(loaded.frame_count):
            frame = windowed_frame(loaded, k, choose_window(loaded, k, self._window)[0])
            for predictor in self._predictors:
                self._wait_for_room()
                if image.has_failed:
                    return
                clock = Clock(_MOST_SECONDS, gives_way=True)
                embedding = threads.submit(self._embedding, predictor, frame, clock)
                self._slices.append(_Slice(image, predictor, clock, embedding))

    def _embedding(self, predictor: Predictor, frame: np.ndarray, clock: Clock) -> tuple[str, int | None]:
        """Encode a slice; return its key and its file's size, None if it could not be written."""
        with use_clock(clock):
            key = predictor.encode(frame).key
        self._files.flush()
        return key, self._files.size(key)

    def _wait_for_room(self) -> None:
        """Wait until one more slice may be encoded, beside those under way, of which none is too large to be kept."""
        while self._slices and (
            len(self._slices) >= 2 * self._engine.encodes_at_once
            or not self._largest
            or self._summary.bytes + (len(self._slices) + 1) * self._largest > self._max_bytes
        ):
            self._finish_one()
        if self._summary.bytes + self._largest > self._max_bytes:
            raise NoRoomError("bound reached")  # rather than push out what was just computed

    def _finish_one(self, *, is_ending: bool = False) -> None:
        """Wait for the slice that was begun first, and count it."""
        one = self._slices.popleft()
        image = one.image
        try:
            key, size = one.embedding.result()
        except Exception as error:
            if not is_ending:
                self._give_up(image, error)
            return
        if size is None:
            raise NoRoomError("not writable")
        if "encode" in one.clock.stages:
            self._summary.encoded += 1
        else:
            self._summary.present += 1
        self._count(key, size)
        image.found[one.predictor][key] = size
        image.left -= 1
        if not image.left:
            self._summary.images += 1
            self._note(image)

    def _note(self, image: _Image) -> None:
        if image.state is None:
            return
        for predictor, found in image.found.items():
            try:
                self._journal.add(Done(self._name(image, predictor), image.state, sum(found.values()), list(found)))
            except OSError:
                raise NoRoomError("not writable") from None

    def _count(self, key: str, size: int) -> None:
        if key not in self._counted:
            self._counted.add(key)
            self._summary.bytes += size
            self._largest = max(self._largest, size)

    def _give_up(self, image: _Image, error: Exception) -> None:
        image.has_failed = True
        self._summary.unread.setdefault(image.name, _reason(error))

    def _tell(self, bar: tqdm) -> None:
        """Tell how far it is: by the bar, or by a line now and then."""
        summary = self._summary
        bar.n = summary.images + len(summary.unread)
        bar.set_postfix(encoded=summary.encoded, refresh=False)
        bar.update(0)
        if bar.disable and time.monotonic() - self._told > _TELL_EVERY_S:
            self._told = time.monotonic()
            print(
                f"scripts/precompute: {bar.n} of {bar.total} images, {summary.encoded} slices encoded", file=sys.stderr
            )


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
        if query or not series:
            counts = {str(one.SeriesInstanceUID): one.get(_COUNT) for one in store.described()}
        else:
            counts = {uid: None for uid in series if store.has_image(uid)}
        found = {
            uid: Source(partial(store.series_folder, uid), partial(_state_of_series, store, uid, count))
            for uid, count in counts.items()
        }
    else:
        folder = Path(studies)
        if not folder.is_dir():
            raise UsageError(f"--studies {studies}: there is no such folder")
        if query:
            raise UsageError("--query is for a DICOMweb server")
        suffixes = image_suffixes()
        names = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
        found = {name: _in_folder(folder / name) for name in names if split_name(name, suffixes)[1]}
    return {name: found.get(name, MISSING) for name in series} if series else found


_COUNT = "NumberOfSeriesRelatedInstances"


def _state_of_series(store: DicomWebStore, series: str, count: int | None) -> str | None:
    """The number of instances that the server's list tells; None if it tells none, or the series is not here."""
    return None if count is None or store.folders.find(series) is None else f"{count} instances"


def _in_folder(path: Path) -> Source:
    return Source(lambda: path, partial(_state_of_file, path))


def _state_of_file(path: Path) -> str | None:
    """A checksum of the size and the modification time of a file, or of each file of a folder; None without one."""
    try:
        sizes_and_times = [(size, modified) for _, _, size, modified, _ in identity_of(path)]
    except OSError:
        return None
    return hashlib.sha256(repr(sizes_and_times).encode()).hexdigest()


def _missing() -> Path:
    raise ImageError("there is no such image")


MISSING = Source(_missing, lambda: None)
"""An image that there is not."""


def _query(pairs: Sequence[str]) -> dict[str, str]:
    query = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or tag_for_keyword(key) is None:
            raise UsageError(f"--query {pair}: it must be a DICOM keyword, =, and what to look for")
        query[key] = value
    return query


def _place(studies: str) -> str:
    """The studies' name in the journal, the same however they are written."""
    is_url = studies.startswith(("http://", "https://"))
    return studies.rstrip("/") if is_url else os.path.realpath(studies)


def _start_workers(arguments: argparse.Namespace, specs: Sequence[ModelSpec]) -> Workers | None:
    """Start the processes that encode; None if this one does.

    Raises:
        UsageError: If they cannot be started.
    """
    if arguments.workers is None:
        return None
    if chosen_device(arguments.device).type != "cpu":
        raise UsageError("--workers encode on CPUs, and this would be done on a GPU: add --device cpu")
    try:
        return workers_at(
            arguments.workers,
            specs,
            arguments.model_dir,
            precision=arguments.precision,
            cores=arguments.worker_cores,
        )
    except WorkersStartError as error:
        raise UsageError(str(error)) from None


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
    if arguments.worker_cores < 1:
        raise UsageError("--worker-cores needs a number above 0")
    query = _query(arguments.query)
    models = known_models(arguments.model_specs)
    specs = [get_spec(name, models) for name in names]
    folder = arguments.embeddings.expanduser().resolve()
    files = EmbeddingFiles(folder, max_bytes, lossless=True)
    engine = Engine(
        specs,
        arguments.model_dir,
        device=arguments.device,
        cache_bytes=0,
        precision=arguments.precision,
        embedding_files=files,
        workers=_start_workers(arguments, specs),
    )
    images = find_images(arguments.studies, arguments.series, query)
    images = dict(islice(images.items(), arguments.limit))
    summary = Summary(models=list(engine.specs), embeddings=str(arguments.embeddings))
    started = time.monotonic()
    precomputation = Precomputation(
        engine,
        files,
        max_bytes,
        studies=_place(arguments.studies),
        window=arguments.window,
        journal=Journal(folder, files.size),
        summary=summary,
        again=arguments.again,
    )
    with tqdm(total=len(images), unit="image", disable=not sys.stderr.isatty()) as bar:
        try:
            precomputation.run(images, bar)
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
