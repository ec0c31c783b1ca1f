"""A DICOMweb server's series of which slices are missing: no NIfTI that lies elsewhere, but labels are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monailabel.config import Settings

from lib.imaging.image import NotOneVolumeError
from lib.imaging.label_writers import write_label_volume
from lib.imaging.nifti_writer import is_placed
from lib.server.mends import dicomweb_datastore
from lib.server.mends.dicomweb_datastore import open_dicomweb
from support.dicomweb_stand_in import running_stand_in
from support.series import ACQUISITIONS, SHAPE, write_series

SERIES = "1.2.3.4"


@pytest.mark.parametrize("missing", [None, 9])
def test_a_series_without_a_slice(monkeypatch, tmp_path, missing):
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setattr(dicomweb_datastore, "settings", Settings(_env_file=None))
    with running_stand_in() as stand_in:
        store = open_dicomweb(stand_in.url)
        files = write_series(store._folders.path(SERIES), ACQUISITIONS[0])
        if missing is None:
            assert is_placed(store.get_image_uri(SERIES))
        else:
            files.pop(missing).unlink()
            with pytest.raises(NotOneVolumeError, match="unevenly spaced"):
                store.get_image_uri(SERIES)
        write_label_volume(np.ones((len(files), *SHAPE[1:]), np.uint8), np.eye(4), tmp_path / "label.nrrd")
        store.save_label(SERIES, str(tmp_path / "label.nrrd"), "original", {})
        assert Path(store.get_label_uri(SERIES, "original")).stat().st_size > 0
