"""What was acknowledged of a DICOMweb archive's series is there when the server is killed: labels and segmentations.

A label that was saved comes back with its bytes, and its segmentation is on the archive; so is what was stored through
the proxy. Also of a label that was under way there is all or nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import signal
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import requests
from pydicom.uid import generate_uid

from support.orthanc import running_orthanc
from support.series import ACQUISITIONS, write_series
from support.server_process import Server, running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]


class Annotator:
    """Saves labels of one series until the server is gone.

    Args:
        series: Its Series Instance UID.
    """

    def __init__(self, series: str) -> None:
        self._series = series
        self.kept: dict[str, bytes] = {}
        self.under_way: dict[str, bytes] = {}
        self.stored: dict[str, str] = {}
        self.faults: list[str] = []

    def open(self, server: Server) -> None:
        """Get what labels and segmentations are made of."""
        image = gzip.decompress(server.get(f"/datastore/image?image={self._series}").content)
        self._image = nibabel.Nifti1Image.from_bytes(image)
        click = {"params": json.dumps({"foreground": [[40, 40, 3]]})}
        made = server.post(f"/infer/sam_tiny?image={self._series}&output=dicom_seg", data=click)
        self._segmentation = pydicom.dcmread(io.BytesIO(made.content))

    def label(self, number: int) -> bytes:
        labels = np.random.default_rng(number).integers(0, 3, self._image.shape, np.uint8)
        return gzip.compress(nibabel.Nifti1Image(labels, self._image.affine).to_bytes(), 1)

    def save(self, server: Server, number: int) -> None:
        tag, content = ("final", "mine")[number % 2], self.label(number)
        self.under_way[tag] = content
        answer = requests.put(
            f"{server.url}/datastore/label?image={self._series}&tag={tag}",
            files={"label": ("l.nii.gz", content)},
            data={"params": "{}"},
            timeout=60,
        )
        if answer.status_code == 200:
            self.kept[tag] = self.under_way.pop(tag)
        else:
            self.faults.append(f"{answer.status_code} {answer.text[:200]}")

    def store(self, server: Server) -> None:
        """STOW-RS through the proxy."""
        made = self._segmentation
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        made.SeriesInstanceUID = generate_uid()
        buffer = io.BytesIO()
        made.save_as(buffer)
        body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + buffer.getvalue() + b"\r\n--x--\r\n"
        headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
        answer = server.post("/proxy/dicom/stow/studies", data=body, headers=headers)
        if answer.status_code == 200:
            self.stored[str(made.SOPInstanceUID)] = f"{made.StudyInstanceUID}/series/{made.SeriesInstanceUID}"
        else:
            self.faults.append(f"{answer.status_code} {answer.text[:200]}")

    def work(self, server: Server) -> None:
        number = len(self.kept)
        try:
            while True:
                number += 1
                self.save(server, number)
                self.store(server)
        except requests.RequestException:
            pass

    def check(self, server: Server) -> None:
        assert server.get("/datastore/?output=all").status_code == 200
        for tag, content in list(self.kept.items()):
            found = server.get(f"/datastore/label?label={self._series}&tag={tag}")
            assert found.status_code == 200, (tag, found.status_code, found.text[:200])
            allowed = {hashlib.sha256(one).digest() for one in (content, self.under_way.get(tag, content))}
            assert hashlib.sha256(found.content).digest() in allowed, tag
            self.kept[tag] = found.content
        self.under_way.clear()
        for place in self.stored.values():
            found = server.get(f"/proxy/dicom/wado/studies/{place}/metadata")
            assert found.status_code == 200 and len(found.json()) == 1, (place, found.status_code)


@pytest.mark.timeout(1200)
@pytest.mark.long
@pytest.mark.parametrize("kills", [2, 10])
def test_labels_of_an_archive_s_series_are_there_after_each_kill(tmp_path: Path, kills: int) -> None:
    moments = random.Random(kills)
    (tmp_path / "series").mkdir()
    files = write_series(tmp_path / "series", ACQUISITIONS[0])
    annotator = Annotator(str(pydicom.dcmread(files[0]).SeriesInstanceUID))
    cache = tmp_path / "cache"
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(cache)}
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.store(*files)
        for run in range(kills + 1):
            folder = tmp_path / f"run {run}"
            with running_server(folder, studies=orthanc.dicomweb, variables=variables) as server:
                assert not list(cache.glob(".fetching-*"))
                if run == 0:
                    annotator.open(server)
                    for number in (0, 1):
                        annotator.save(server, number)
                annotator.check(server)
                assert "damaged" not in server.log.read_text(errors="replace")
                if run < kills:
                    worker = threading.Thread(target=annotator.work, args=(server,))
                    worker.start()
                    time.sleep(moments.uniform(1, 3))
                    server.process.send_signal(signal.SIGKILL)
                    server.process.wait(20)
                    worker.join(60)
            assert not annotator.faults, annotator.faults
        print(f"{kills} kills: {len(annotator.stored)} segmentations stored through the proxy, none lost")
    assert annotator.stored and set(annotator.kept) == {"final", "mine"}
