"""Clients that write everything which a server acknowledges, and a ledger of what they were promised.

They write labels by route, by inference and by batch, images, infos, results, accepted requests and sessions. Each
acknowledged write must be there later with its SHA-256 or, where a newer one was under way, with that one's.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import requests
from PIL import Image

from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.server_process import Server

IMAGES = ("by route", "by infer", "by batch", "info")
POINT = json.dumps({"positive_points": [{"x": 20, "y": 20}]})
_TAGS = 3
_VALUES, _MASK = ball_volume()


def nifti(voxels: np.ndarray) -> bytes:
    return gzip.compress(nibabel.Nifti1Image(voxels, BALL_AFFINE).to_bytes(), 1)


def label(number: int) -> bytes:
    """A label of its own, which does not compress to a few bytes."""
    noise = np.random.default_rng(number).integers(0, 9, _MASK.shape, np.uint8)
    return nifti(np.where(_MASK, 1, noise).astype(np.uint8))


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 60, (48, 56), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_opens(content: bytes) -> None:
    """A label is whole: gzip's checksum and the number of voxels."""
    assert nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).get_fdata().shape == _MASK.shape


def _place(image: str, tag: str) -> str:
    return f"/datastore/label?label={image}&tag={tag}"


@dataclass
class Ledger:
    """What clients were promised. By place, a path of the server: the digest that it had when it was acknowledged.

    Args:
        kept: The last acknowledged digest of each place; empty where the answer does not tell it.
        under_way: What was sent to a place and not answered; empty where the digest is the server's to make.
        faults: Answers that should not have been.
        refusals: Statuses with which a write may be refused; then nothing has changed.
    """

    kept: dict[str, str] = field(default_factory=dict)
    under_way: dict[str, str] = field(default_factory=dict)
    noted: int = 0
    results: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    refusals: tuple[int, ...] = (429,)
    refused: Counter[int] = field(default_factory=Counter)
    acknowledged: int = 0

    def write(self, place: str, content: bytes, send: Callable[[], requests.Response]) -> None:
        """Send what is to be found at a place; without content it is what the answer holds."""
        self.under_way[place] = digest(content) if content else ""
        answer = self.ask(send)
        if answer is not None:
            self.kept[place] = digest(content) if content else digest(answer.content)
        if answer is not None or content:  # what was refused is not there; an inference can have kept its label by then
            del self.under_way[place]

    def ask(self, send: Callable[[], requests.Response]) -> requests.Response | None:
        """The answer, if it is a promise."""
        answer = send()
        if answer.status_code in (200, 202):
            self.acknowledged += 1
            return answer
        self.refused[answer.status_code] += 1
        if answer.status_code not in self.refusals or not answer.json().get("detail"):
            self.faults.append(f"{answer.status_code} {answer.text[:200]}")
        return None

    def check(self, server: Server) -> None:
        """Everything that was promised is there."""
        listed = server.get("/datastore/?output=all")
        assert listed.status_code == 200 and listed.json()["left_out"] == {}
        for place in [*self.kept, *self.under_way]:
            answer = server.get(place)
            if place not in self.kept:
                assert answer.status_code in (200, 404), (place, answer.status_code)
                continue
            assert answer.status_code == 200, (place, answer.status_code, answer.text[:200])
            allowed = {self.kept[place], self.under_way.get(place, self.kept[place])}
            assert digest(answer.content) in allowed or "" in allowed, place
            if "/label?" in place:
                check_opens(answer.content)
        assert server.get("/datastore/image/info?image=info").json().get("n", 0) >= self.noted
        for timestamp in self.results[-5:]:
            assert server.get(f"/get_segmented_image/{timestamp}?view=mask").status_code == 200, timestamp
        for place, content in list(self.under_way.items()):  # from now on it is what is there
            answer = server.get(place)
            if answer.status_code == 200:
                assert digest(answer.content) in (content, self.kept.get(place)) or not content
                self.kept[place] = digest(answer.content)
            del self.under_way[place]


class Clients:
    """Clients that write, each of some kinds in turn, until the server is gone or their time is up."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._numbers = itertools.count(1)
        self._results = itertools.count()

    @contextmanager
    def at_work(self, server: Server, seconds: float = 60) -> Iterator[None]:
        kinds = ([self._label, self._image, self._info], [self._infer, self._session], [self._result, self._batch])
        ends = time.monotonic() + seconds
        threads = [threading.Thread(target=self._work, args=(server, each, ends)) for each in kinds]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join(60)

    def _work(self, server: Server, kinds: list[Callable[[Server, int], None]], ends: float) -> None:
        for kind in itertools.cycle(kinds):
            if time.monotonic() > ends:
                return
            try:
                kind(server, next(self._numbers))
            except requests.RequestException:
                return
            time.sleep(0.01)

    def _put(self, server: Server, path: str, **kwargs: object) -> requests.Response:
        return requests.put(server.url + path, timeout=60, **kwargs)

    def _label(self, server: Server, number: int) -> None:
        self._put_label(server, "by route", ("final", "mine")[number % 2], label(number))

    def _put_label(self, server: Server, image: str, tag: str, content: bytes) -> None:
        files = {"label": ("l.nii.gz", content)}
        path = f"/datastore/label?image={image}&tag={tag}"
        place = _place(image, tag)
        self._ledger.write(place, content, lambda: self._put(server, path, files=files, data={"params": "{}"}))

    def _image(self, server: Server, number: int) -> None:
        content = picture(number)
        path = f"/datastore/image?image=new {number}"
        self._ledger.write(path, content, lambda: self._put(server, path, files={"file": ("a.png", content)}))

    def _info(self, server: Server, number: int) -> None:
        data = {"info": json.dumps({"n": number})}
        if self._ledger.ask(lambda: self._put(server, "/datastore/image/info?image=info", data=data)):
            self._ledger.noted = number

    def _infer(self, server: Server, number: int) -> None:
        tag = f"i{number % _TAGS}"
        params = {
            "foreground": [list(BALL_CENTRE)],
            "save_label": True,
            "label_tag": tag,
            "result_extension": ".nii.gz",
        }
        path, data = "/infer/sam_tiny?image=by infer&output=image", {"params": json.dumps(params)}
        place = _place("by infer", tag)
        self._ledger.write(place, b"", lambda: server.post(path, data=data))

    def _batch(self, server: Server, number: int) -> None:
        if _place("by batch", "final") not in self._ledger.kept:  # what a batch takes its prompts from
            self._put_label(server, "by batch", "final", nifti(_MASK.astype(np.uint8)))
        tag = f"b{number % _TAGS}"
        body = {"label_tag": tag, "images": ["by batch"], "prompts": "labels"}
        place = _place("by batch", tag)
        self._ledger.under_way[place] = ""
        answer = self._ledger.ask(lambda: server.post("/batch/infer/sam_tiny?run_sync=true", json=body))
        if answer is not None and "error" not in answer.json().get("by batch", {"error": 1}):
            self._ledger.kept[place] = ""
            del self._ledger.under_way[place]

    def _result(self, server: Server, number: int) -> None:
        headers = {"Prefer": "respond-async"} if next(self._results) % 2 else {}
        answer = self._ledger.ask(lambda: server.segment(picture(number), POINT, headers=headers))
        if answer is not None:
            promised = self._ledger.accepted if answer.status_code == 202 else self._ledger.results
            promised.append(answer.text.split(":")[1].strip(" }"))

    def _session(self, server: Server, number: int) -> None:
        content = label(number)
        answer = self._ledger.ask(lambda: self._put(server, "/session/", files={"files": ("s.nii.gz", content)}))
        if answer is not None:
            self._ledger.kept[f"/session/{answer.json()['session_id']}?image=true"] = digest(content)


def check_outcome(server: Server, timestamp: str, seconds: float = 60, *, may_fail: bool = False) -> None:
    """An accepted request is done, or it is said why it is not: it was given up or, if it may be, by its own error."""
    deadline = time.monotonic() + seconds
    while (answer := server.get(f"/get_segmented_image/{timestamp}?view=mask")).status_code == 202:
        assert time.monotonic() < deadline, timestamp
        time.sleep(0.1)
    given_up = answer.status_code == 500 and "stopped" in answer.json()["detail"]
    given_up |= may_fail and answer.status_code in (500, 507) and bool(answer.json()["detail"])
    assert answer.status_code == 200 or given_up, (timestamp, answer.status_code, answer.text[:200])


def studies_of(folder: Path) -> Path:
    """Make the folder of the images that are labelled."""
    studies = folder / "studies"
    studies.mkdir()
    for name in IMAGES:
        (studies / f"{name}.nii.gz").write_bytes(nifti(_VALUES))
    return studies
