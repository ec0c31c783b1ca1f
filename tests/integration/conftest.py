"""A real server for the tests of this folder, with phantoms as studies."""

from __future__ import annotations

from collections.abc import Iterator

import nibabel
import numpy as np
import pytest
from PIL import Image

from support.phantoms import BALL_AFFINE, ball_volume
from support.server_process import Server, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """One server for all tests of this folder that do not change its options."""
    folder = tmp_path_factory.mktemp("server with space")
    studies = folder / "studies"
    studies.mkdir()
    values, _ = ball_volume()
    nibabel.Nifti1Image(values, BALL_AFFINE).to_filename(studies / "ball.nii.gz")
    rows, columns = np.mgrid[:200, :240]
    disc = np.where((columns - 130) ** 2 + (rows - 90) ** 2 <= 40**2, 190, 70).astype(np.uint8)
    Image.fromarray(disc).save(studies / "disc.png")
    with running_server(folder, studies=studies) as running:
        yield running
