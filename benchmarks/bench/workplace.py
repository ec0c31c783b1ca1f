"""What the rows measure with: a folder of its own with the app, checkpoints of random weights, and phantoms.

Weights are random but always the same: they make no difference to the time. Nothing is downloaded, and all of the
folder is removed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from bench.machine import ROOT
from bench.server import Server, serving
from lib.sam.models.checksums import ChecksumFile, ChecksumRecord, Digests, FileStamp
from lib.sam.models.registry import MODELS

T = TypeVar("T")

APP = ROOT / "apps" / "sam_app"
SIZE = 512
"""Rows and columns of every image."""


@dataclass(frozen=True)
class Volume:
    """A phantom among the studies.

    Args:
        id: As MONAI Label's datastore names it.
        path: The file.
        slices: How many it has.
    """

    id: str
    path: Path
    slices: int


class Workplace:
    """Made once for a run of the benchmark.

    Args:
        folder: Empty, for this run alone.
        quick: Whether few repetitions are wanted, and small models where a row allows it.
        wanted: Ids of the rows that are to be measured.
    """

    def __init__(self, folder: Path, *, quick: bool = False, wanted: Collection[str] = ()) -> None:
        self.folder = folder
        self.quick = quick
        self.wanted = wanted
        self._made: dict[str, Any] = {}
        self._servers = 0

    def times(self, full: int, quick: int) -> int:
        """How often to do something."""
        return quick if self.quick else full

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What rows share, made by the first that asks for it."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    @property
    def large_model(self) -> str:
        """ViT-B; in a quick run the bundled model in its place."""
        return "sam_tiny" if self.quick else "sam_vit_b"

    @property
    def large_model_notes(self) -> list[str]:
        """What has to be said of it."""
        return ["quick run: sam_tiny stands for sam_vit_b"] if self.quick else []

    @cached_property
    def app(self) -> Path:
        """The app with a model folder of this run's own."""
        app = self.folder / "app"
        app.mkdir()
        for part in ("main.py", "lib"):
            (app / part).symlink_to(APP / part)
        model_folder = app / "model"
        model_folder.mkdir()
        (model_folder / "sam_tiny.safetensors").symlink_to(APP / "model" / "sam_tiny.safetensors")
        return app

    def model_folder(self, *models: str) -> Path:
        """The app's model folder, once it has a checkpoint of each of the models."""
        folder = self.app / "model"
        for model in models:
            spec = MODELS[model]
            path = folder / spec.checkpoint
            if spec.bundled or path.exists():
                continue
            torch.manual_seed(0)
            torch.save(spec.build().state_dict(), path)
            # No file of random weights has the publisher's checksum: it is entered as one that was verified.
            record = ChecksumRecord(Digests.of(path), verified=FileStamp.of(path))
            ChecksumFile(folder / "checksums.json").put(path.name, record)
        return folder

    def checkpoint(self, model: str) -> Path:
        """The file of a model's weights."""
        return self.model_folder(model) / MODELS[model].checkpoint

    @cached_property
    def studies(self) -> Path:
        """The folder of the volumes that the servers serve; what is not there when one starts, it may not find."""
        studies = self.folder / "studies"
        studies.mkdir()
        return studies

    def volume(self, name: str, slices: int = 20) -> Volume:
        """A volume of ``SIZE`` x ``SIZE`` x ``slices``, other pixels for each name, made when first asked for."""
        path = self.studies / f"{name}.nii.gz"
        if not path.exists():
            values = torso(slices, seed=sum(name.encode()))
            nibabel.Nifti1Image(values.T, np.diag([-0.8, -0.8, 2.5, 1.0])).to_filename(path)
        return Volume(name, path, slices)

    @contextmanager
    def server(
        self,
        *models: str,
        conf: Sequence[str] = (),
        studies: Path | None = None,
    ) -> Iterator[Server]:
        """A server of its own with these models, the default one first, stopped at the end.

        Args:
            models: By name.
            conf: More options: keys and values in turns.
            studies: Other than the common ones.
        """
        self.model_folder(*models)
        self._servers += 1
        folder = self.folder / f"server-{self._servers}"
        options = ["models", ",".join(models), *conf]
        with serving(folder, self.app, studies or self.studies, options) as server:
            yield server


def torso(slices: int, seed: int) -> np.ndarray:
    """``(slices, SIZE, SIZE)`` int16 Hounsfield units: a body in air with organs that change from slice to slice."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    noise = gaussian_filter(random.normal(0, 30, (4, SIZE, SIZE)).astype(np.float32), (0, 0.7, 0.7))
    organs = [(*random.uniform(150, 360, 2), random.uniform(25, 60), random.uniform(-80, 200)) for _ in range(6)]
    volume = np.empty((slices, SIZE, SIZE), np.int16)
    for k in range(slices):
        frame = np.full((SIZE, SIZE), -1000, np.float32)
        frame[((columns - 256) / 220) ** 2 + ((rows - 256) / 170) ** 2 <= 1] = 20
        for number, (x, y, radius, value) in enumerate(organs):
            size = radius * (1 + 0.3 * np.sin(0.17 * k + number))
            frame[(columns - x) ** 2 + (rows - y) ** 2 <= size**2] = value
        # Four patterns of noise, shifted: every slice is another, for a fraction of the time.
        volume[k] = (frame + np.roll(noise[k % 4], (7 * k, 11 * k), (0, 1))).round()
    return volume


def pictures(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """``(SIZE, SIZE, 3)`` uint8 images, each another, so that none is found in a cache."""
    for number in range(count):
        random = np.random.default_rng([seed, number])
        grey = gaussian_filter(random.normal(0, 1, (SIZE, SIZE)).astype(np.float32), 6)
        grey = (grey - grey.min()) / (grey.max() - grey.min()) * 255
        yield np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
