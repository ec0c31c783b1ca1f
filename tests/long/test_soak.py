"""After thousands of mixed requests a server is as it was: no more memory, no more open files, nothing left behind."""

from __future__ import annotations

import gzip
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
import requests
from pydicom.data import get_testdata_file

from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.rest import png
from support.server_process import Server, running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]

CLIENTS = 3
DICOM = ("MR_small.dcm", "CT_small.dcm", "MR_small_jp2klossless.dcm")
SPARE_FILES = 2
"""One or two more can be open at one moment than at another; what a request leaves open would be hundreds."""

FIFTHS, LATER = 5, 3
"""After the first fifth the server is warm. The allocator's arenas go up and down by some percent: of the last fifths
the median is taken, which what is lost with every request would raise; a short run tells but a large leak."""

POINT = json.dumps({"positive_points": [{"x": 20, "y": 20}], "negative_points": [{"x": 3, "y": 3}]})
BOX = json.dumps({"rectangles": [{"startX": 8, "startY": 8, "width": 24, "height": 20}], "multimask": True})
CLICK = {"foreground": [list(BALL_CENTRE)], "result_extension": ".nii.gz"}
VIEWS = (
    *("get_segmented_image/{}?view=overlay", "get_segmented_image/{}?view=mask", "get_dicom_image/{}?type=sc"),
    *("get_dicom_image/{}?type=seg", "get_segmented_image/{}?view=mask&object=1"),
)


def nifti(voxels: np.ndarray) -> bytes:
    return gzip.compress(nibabel.Nifti1Image(voxels, BALL_AFFINE).to_bytes(), mtime=0)


@dataclass(frozen=True)
class Contents:
    """What is sent: pictures and DICOM files, a volume and a label of its voxels."""

    uploads: tuple[bytes, ...]
    volume: bytes
    label: bytes


def contents() -> Contents:
    noise = np.random.default_rng(1)
    pictures = [png(noise.integers(0, 200, (48, 56), np.uint8)) for _ in range(3)]
    dicom = [Path(str(get_testdata_file(name, download=False))).read_bytes() for name in DICOM]
    values, mask = ball_volume()
    return Contents((*pictures, *dicom), nifti(values), nifti(mask.astype(np.uint8)))


class Client:
    """Sends requests of all kinds, one after the other, and takes away again what it does not want to keep.

    Args:
        number: Its own image of the datastore, and the seed of what it does.
    """

    def __init__(self, server: Server, number: int, sent: Contents) -> None:
        self._url, self._contents, self._image = server.url, sent, f"ball-{number}"
        self._random, self._session = random.Random(number), requests.Session()
        self.results: list[float] = []
        self.statuses: Counter[int] = Counter()

    def work(self, count: int) -> None:
        """About so many requests."""
        before = self.statuses.total()
        kinds: list[Callable[[], None]] = [
            *(self._segment, self._segment_later, self._click, self._follow, self._save_and_delete, self._label),
            *(self._keep_session, self._refused, self._look),
        ]
        while self.statuses.total() - before < count:
            self._random.choice(kinds)()
        self._session.close()  # its connections, not for good

    def _ask(self, method: str, path: str, *expected: int, **body: object) -> requests.Response:
        answer = self._session.request(method, f"{self._url}/{path}", timeout=120, **body)
        self.statuses[answer.status_code] += 1
        assert answer.status_code in (expected or (200,)), (method, path, answer.status_code, answer.text[:300])
        return answer

    def _upload(self, *expected: int, **headers: str) -> float:
        upload = {"file": ("image", self._random.choice(self._contents.uploads))}
        asked = {"sam_input": self._random.choice((POINT, BOX))}
        answer = self._ask("POST", "segment_input_image/", *expected, files=upload, data=asked, headers=headers)
        self.results.append(answer.json()["timestamp"])
        return self.results[-1]

    def _segment(self) -> None:
        result = self._upload()
        for view in self._random.sample(VIEWS, 2):
            self._ask("GET", view.format(result))

    def _segment_later(self) -> None:
        result = self._upload(202, Prefer="respond-async")
        while self._ask("GET", VIEWS[1].format(result), 200, 202).status_code == 202:
            time.sleep(0.05)

    def _infer(self, model: str, path: str, output: str, **params: object) -> None:
        self._ask("POST", f"infer/{model}?{path}&output={output}", data={"params": json.dumps({**CLICK, **params})})

    def _click(self) -> None:
        self._infer("sam_tiny", f"image={self._image}", self._random.choice(("image", "json", "all")))

    def _follow(self) -> None:
        self._infer("sam_tiny_3d", f"image={self._image}", "image", max_slices=2)

    def _save_and_delete(self) -> None:
        self._infer("sam_tiny", f"image={self._image}", "image", save_label=True, label_tag="mine")
        self._ask("DELETE", f"datastore/label?id={self._image}&tag=mine")

    def _label(self) -> None:
        form = {"files": {"label": ("l.nii.gz", self._contents.label)}, "data": {"params": "{}"}}
        self._ask("PUT", f"datastore/label?image={self._image}&tag=final", **form)
        self._ask("GET", f"datastore/label?label={self._image}&tag=final")
        self._ask("DELETE", f"datastore/label?id={self._image}&tag=final")

    def _keep_session(self) -> None:
        made = self._ask("PUT", "session/", files=[("files", ("a.nii.gz", self._contents.volume))])
        session = made.json()["session_id"]
        self._infer("sam_tiny", f"session_id={session}", "image")
        self._ask("GET", f"session/{session}?image=true")
        self._ask("DELETE", f"session/{session}")

    def _refused(self) -> None:
        """One request of each kind that is not done."""
        cut = {"file": ("image", self._contents.uploads[0][:100])}
        self._ask("POST", "segment_input_image/", 415, 422, files=cut, data={"sam_input": POINT})
        outside = {"params": '{"foreground": [[1, 1, 99]]}'}
        self._ask("POST", f"infer/sam_tiny?image={self._image}&output=image", 422, data=outside)
        torn = {"label": ("l.nii.gz", self._contents.label[:200])}
        self._ask("PUT", f"datastore/label?image={self._image}&tag=final", 422, files=torn)
        self._ask("PUT", "datastore/image?image=torn", 415, 422, files={"file": ("a.nii.gz", b"none")})
        self._ask("GET", VIEWS[0].format("1.5"), 404)

    def _look(self) -> None:
        for path in ("datastore/", "info/", "health_check/", "metrics", f"datastore/image?image={self._image}"):
            self._ask("GET", path)


def processes(server: Server) -> list[psutil.Process]:
    process = psutil.Process(server.process.pid)
    return [process, *process.children(recursive=True)]


def memory_and_files(server: Server) -> tuple[float, float]:
    """Resident MiB and open files of the idle server and its children: the medians of some samples."""
    process, deadline = psutil.Process(server.process.pid), time.monotonic() + 60
    while process.cpu_percent(1) > 2 and time.monotonic() < deadline:
        pass
    memory, files = [], []
    for _ in range(9):
        with suppress(psutil.NoSuchProcess):
            memory.append(sum(each.memory_info().rss for each in processes(server)) / 2**20)
            files.append(sum(each.num_fds() for each in processes(server)))
        time.sleep(0.2)
    return statistics.median(memory), statistics.median(files)


def below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.exists()}


@pytest.mark.parametrize(
    ("count", "most_percent"),
    [
        pytest.param(300, 10, id="some", marks=pytest.mark.long),
        pytest.param(5000, 2, id="many", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_nothing_is_left_of_mixed_requests(tmp_path: Path, count: int, most_percent: int) -> None:
    sent = contents()
    for name in ("studies", "tmp"):
        (tmp_path / name).mkdir()
    for number in range(CLIENTS):
        (tmp_path / "studies" / f"ball-{number}.nii.gz").write_bytes(sent.volume)
    with running_server(tmp_path, variables={"TMPDIR": str(tmp_path / "tmp")}) as server:
        clients = [Client(server, number, sent) for number in range(CLIENTS)]

        def work(requests_of_all: int) -> tuple[float, float]:
            with ThreadPoolExecutor(CLIENTS) as threads:
                list(threads.map(lambda client: client.work(requests_of_all // CLIENTS), clients))
            return memory_and_files(server)

        temporary, studies = below(tmp_path / "tmp"), below(server.studies)
        memory, files = zip(*(work(count // FIFTHS) for _ in range(FIFTHS)), strict=True)
        statuses = sum((client.statuses for client in clients), Counter())
        growth = 100 * (statistics.median(memory[-LATER:]) / memory[0] - 1)
        print(f"{statuses.total()} requests, {dict(sorted(statuses.items()))}")
        print(f"MiB after each fifth: {[round(each) for each in memory]} ({growth:+.2f} %); open files: {files}")
        assert below(tmp_path / "tmp") <= temporary
        assert not below(tmp_path / "sessions")
        assert {path.name for path in below(server.studies) - studies} <= {
            "datastore_v2.json",
            "labels",
            "final",
            "mine",
        }
        made = {f"{result:.6f}" for client in clients for result in client.results}
        assert {path.name for path in server.results.iterdir()} - {".lock"} == made
        assert "Traceback" not in server.log.read_text(errors="replace")
        assert min(files[-LATER:]) <= files[0] + SPARE_FILES
        assert growth <= most_percent
