"""OHIF opens the Segmentations that this app makes: of a whole object, and of none."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from lib.imaging.dicom.data_sets import write
from lib.imaging.dicom.reader import read_series_grid
from lib.imaging.labels.series_segmentation import series_segmentation
from lib.imaging.readers import read_image
from support.series import ACQUISITIONS, write_series

pytestmark = [pytest.mark.server, pytest.mark.slow]

_OPEN = """async (name) => {
    const sets = services.displaySetService.getActiveDisplaySets();
    const found = sets.find((one) => one.Modality === "SEG" && one.SeriesDescription === name);
    await found.load({ headers: {} });
    const options = { segmentationId: name, type: "Labelmap" };
    await services.segmentationService.createSegmentationForSEGDisplaySet(found, options);
    const labelmap = services.segmentationService.getSegmentation(name).representationData.Labelmap;
    const slices = labelmap.imageIds.map((id) => cornerstone.cache.getImage(id).voxelManager.getScalarData());
    return {
        labels: found.segMetadata.data.filter(Boolean).map((one) => one.SegmentLabel),
        slices: slices.length,
        marked: slices.reduce((sum, slice) => sum + slice.filter((value) => value === 1).length, 0),
    };
}"""


@pytest.mark.parametrize("acquisition", ["axial", "oblique"])
def test_it_shows_every_voxel_and_an_empty_one_without_complaint(ohif, orthanc, dicomweb_server, tmp_path, acquisition):
    chosen = next(one for one in ACQUISITIONS if one.name == acquisition)
    files = write_series(tmp_path / "series", chosen)
    grid = read_series_grid(tmp_path / "series")
    ball = (read_image(tmp_path / "series").frames > 50).astype(np.uint8)
    for name, labels in (("whole", ball), ("none", np.zeros_like(ball))):
        made = series_segmentation(
            labels,
            sources=grid.sources,
            segment_labels=["liver"],
            algorithm_name="truth",
            algorithm_version="1",
            instance_time=datetime(2026, 1, 2),
            series_description=name,
        )
        write(made, tmp_path / f"{name}.dcm")
    orthanc.store(*files, tmp_path / "whole.dcm", tmp_path / "none.dcm")

    page = ohif.page
    page.goto(f"{dicomweb_server.url}/ohif/viewer?StudyInstanceUIDs={grid.sources[0].StudyInstanceUID}")
    page.wait_for_function(
        "() => window.services?.displaySetService.getActiveDisplaySets().length === 3", timeout=120_000
    )
    expected = {"labels": ["liver"], "slices": len(files)}
    assert page.evaluate(_OPEN, "whole") == {**expected, "marked": int(ball.sum())}
    assert page.evaluate(_OPEN, "none") == {**expected, "marked": 0}
