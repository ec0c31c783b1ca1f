"""A DICOMweb server's series of which slices are missing: no NIfTI that lies elsewhere, but labels are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monailabel.config import Settings

from lib.dicomweb import datastore as dicomweb_datastore
from lib.dicomweb.datastore import open_dicomweb
from lib.imaging.dicom.reader import read_series_grid
from lib.imaging.formats.nifti import has_position
from lib.imaging.image import NotOneVolumeError
from lib.imaging.labels.label_writers import write_label_volume
from support.dicomweb_stand_in import running_stand_in
from support.small_archive import SmallArchive


@pytest.mark.parametrize("missing", [None, 9])
def test_a_series_without_a_slice(monkeypatch, tmp_path, missing):
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setattr(dicomweb_datastore, "settings", Settings(_env_file=None))
    with running_stand_in() as stand_in:
        series = SmallArchive().serve(stand_in)
        series.arrive(*(k for k in range(12) if k != missing))
        store = open_dicomweb(stand_in.url)
        if missing is None:
            assert has_position(store.get_image_uri(series.uid))
        else:
            with pytest.raises(NotOneVolumeError, match="unevenly spaced"):
                store.get_image_uri(series.uid)
        grid = read_series_grid(store.series_folder(series.uid))
        affine = np.eye(4) if grid.affine is None else grid.affine
        write_label_volume(np.ones(grid.shape, np.uint8), affine, tmp_path / "label.nrrd")
        store.save_label(series.uid, str(tmp_path / "label.nrrd"), "original", {})
        assert Path(store.get_label_uri(series.uid, "original")).stat().st_size > 0
