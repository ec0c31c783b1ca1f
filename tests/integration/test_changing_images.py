"""A click is for the slice that its client sees, whatever becomes of the series or the file meanwhile."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import requests

from support.dicomweb_stand_in import running_stand_in
from support.orthanc import running_orthanc
from support.server_process import Server, running_server
from support.small_archive import HeldSeries, SmallArchive, instance, uid_of

pytestmark = pytest.mark.server

CHANGED = "the image has changed since it was opened"


@dataclass
class Archived:
    """A server and the archive that its images are on."""

    server: Server
    archive: SmallArchive
    series: HeldSeries

    def click(self, k: int, output: str = "dicom_seg", **how) -> requests.Response:
        client = {"client_id": how.pop("client_id")} if "client_id" in how else {}
        params = {"roi": [20, 44, 20, 44, k, k], **client}
        query = f"/infer/sam_tiny?image={self.series.uid}&output={output}"
        return self.server.post(query, data={"params": json.dumps(params)}, **how)

    def open_in_viewer(self, browser: dict[str, str]) -> None:
        path = f"/proxy/dicom/wado/studies/{self.series.study}/series/{self.series.uid}/metadata"
        assert self.server.get(path, cookies=browser).status_code == 200


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[tuple[Server, SmallArchive]]:
    folder = tmp_path_factory.mktemp("changing")
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")}
    archive = SmallArchive()
    with running_stand_in() as stand_in:
        archive.serve(stand_in)
        with running_server(folder, studies=stand_in.url, variables=variables) as server:
            yield server, archive


@pytest.fixture
def archived(running) -> Archived:
    """The upper half of a series has arrived."""
    server, archive = running
    archive.fails, archive.held = None, [HeldSeries()]
    archive.held[0].arrive(6, 7, 8, 9, 10, 11)
    return Archived(server, archive, archive.held[0])


def height(answer: requests.Response) -> float:
    assert answer.status_code == 200, answer.text
    frame = pydicom.dcmread(io.BytesIO(answer.content)).PerFrameFunctionalGroupsSequence[0]
    return float(frame.PlanePositionSequence[0].ImagePositionPatient[2])


def refused(answer: requests.Response) -> bool:
    return answer.status_code == 409 and CHANGED in answer.json()["detail"] and "Retry-After" not in answer.headers


def browser(n: int) -> dict[str, str]:
    return {"SAM-Client": f"{n:032x}"}


class TestASeriesThatIsStillArriving:
    def test_who_opens_it_later_gets_the_slice_that_is_shown(self, archived):
        assert height(archived.click(2, client_id="first")) == 20
        archived.series.arrive(0, 1, 2, 3, 4, 5)
        assert height(archived.click(4, client_id="second")) == 10
        assert refused(archived.click(2, client_id="first"))

    def test_a_viewer_is_refused_until_it_is_loaded_again(self, archived):
        archived.open_in_viewer(browser(1))
        assert height(archived.click(2, cookies=browser(1))) == 20
        archived.series.arrive(0, 1, 2, 3, 4, 5)
        archived.open_in_viewer(browser(2))
        assert height(archived.click(2, cookies=browser(2))) == 5
        for _ in range(2):
            assert refused(archived.click(2, cookies=browser(1)))
        archived.open_in_viewer(browser(1))
        assert height(archived.click(8, cookies=browser(1))) == 20

    def test_slices_that_come_between_opening_and_the_first_click(self, archived):
        archived.open_in_viewer(browser(3))
        archived.series.arrive(0)
        assert refused(archived.click(2, cookies=browser(3)))

    def test_who_downloaded_it_is_refused_until_it_is_downloaded_again(self, archived):
        image = f"/datastore/image?image={archived.series.uid}"
        volume = archived.server.get(image).content
        assert height(archived.click(2, client_id="3D Slicer")) == 20
        archived.series.arrive(0, 1)
        end = time.monotonic() + 20
        while not refused(answer := archived.click(2, client_id="3D Slicer")):  # a copy is trusted for a while
            assert height(answer) == 20 and time.monotonic() < end
        assert refused(archived.click(2, client_id="3D Slicer"))
        assert archived.server.get(image).content != volume
        assert height(archived.click(2, client_id="3D Slicer")) == 15

    def test_one_that_is_gone_is_not_found(self, archived):
        assert archived.click(2, client_id="gone").status_code == 200
        archived.archive.held.clear()
        archived.server.get("/info/")
        assert archived.click(2, client_id="gone").status_code == 404

    def test_a_slice_that_is_replaced(self, archived):
        assert archived.click(2, client_id="replaced").status_code == 200
        archived.series.instances[2] = instance(archived.series.study, archived.series.uid, 8, brightness=90)
        archived.server.get("/info/")
        assert refused(archived.click(2, client_id="replaced"))
        seg = pydicom.dcmread(io.BytesIO(archived.click(2, client_id="replaced").content))
        sources = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert uid_of(archived.series.instances[2]) in {source.ReferencedSOPInstanceUID for source in sources}

    def test_while_the_archive_is_away_those_go_on_who_know_the_series(self, archived):
        assert archived.click(2, client_id="knows").status_code == 200
        archived.archive.fails = 503
        archived.server.get("/info/")
        assert height(archived.click(2, client_id="knows")) == 20
        assert archived.click(2, client_id="does not").status_code == 502


class TestLabelsOfASeriesThatChanged:
    def save(self, archived: Archived, labels: np.ndarray, tag: str) -> requests.Response:
        image = archived.server.get(f"/datastore/image?image={archived.series.uid}")
        affine = nibabel.Nifti1Image.from_bytes(gzip.decompress(image.content)).affine
        return requests.put(
            f"{archived.server.url}/datastore/label?image={archived.series.uid}&tag={tag}",
            files={"label": ("label.nii", nibabel.Nifti1Image(labels, affine).to_bytes())},
            timeout=60,
        )

    def test_a_label_for_the_slices_of_before_is_not_handed_out(self, archived):
        labels = np.zeros((64, 64, 6), np.uint8)
        labels[20:40, 20:40, 2] = 1
        assert self.save(archived, labels, "original").status_code == 200
        url = f"/datastore/label?label={archived.series.uid}&tag=original"
        assert archived.server.get(url).status_code == 200
        archived.series.arrive(0, 1)
        archived.server.get("/info/")
        answer = archived.server.get(url)
        assert answer.status_code == 409 and "no longer fits" in answer.json()["detail"]

    def test_raw_voxels_are_for_the_series_that_the_viewer_shows(self, archived):
        archived.open_in_viewer(browser(9))
        archived.series.instances[2:4] = [
            archived.series.instances[3],
            instance(archived.series.study, archived.series.uid, 12),
        ]
        answer = requests.put(
            f"{archived.server.url}/datastore/label?image={archived.series.uid}&tag=original",
            files={"label": ("label.bin", bytes(64 * 64 * 6))},
            cookies=browser(9),
            timeout=60,
        )
        assert refused(answer)


def test_a_final_label_is_placed_by_the_instances_that_it_refers_to(tmp_path):
    series = HeldSeries()
    series.arrive(4, 5, 6, 7)
    later = HeldSeries(series.study, series.uid)
    later.arrive(0, 1, 2, 3)
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache")}
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.store(*written(tmp_path / "early", series))
        with running_server(tmp_path, studies=orthanc.dicomweb, variables=variables) as server:
            archived = Archived(server, SmallArchive(), series)
            labels = np.zeros((64, 64, 4), np.uint8)
            labels[20:40, 20:40, 1] = 1  # at 12.5 mm
            assert TestLabelsOfASeriesThatChanged().save(archived, labels, "final").status_code == 200
            orthanc.store(*written(tmp_path / "late", later))
            server.get("/info/")
            answer = server.get(f"/datastore/label?label={series.uid}&tag=final")
            assert answer.status_code == 200, answer.text
            (tmp_path / "label.nii.gz").write_bytes(answer.content)
            found = np.asarray(nibabel.load(tmp_path / "label.nii.gz").dataobj)
            assert found.shape == (64, 64, 8) and np.flatnonzero(found.any(axis=(0, 1))).tolist() == [5]


def written(folder: Path, series: HeldSeries) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{k}.dcm" for k in range(len(series.instances))]
    for file, content in zip(files, series.instances, strict=True):
        file.write_bytes(content)
    return files


@pytest.fixture(scope="module")
def replacing(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("replaced")
    (folder / "studies").mkdir()
    with running_server(folder, studies=folder / "studies") as running:
        yield running


class TestAFileThatIsReplaced:
    def put(self, server: Server, name: str, column: int) -> Path:
        """A volume with a block on the left or on the right, of the same size and as old as any."""
        values = np.full((64, 64, 4), 40, np.int16)
        values[column : column + 16, 24:40] = 200
        path = server.studies / f"{name}.nii.gz"
        aside = server.studies.parent / path.name
        image = nibabel.Nifti1Image(values, np.eye(4))
        nibabel.save(image, aside)
        os.utime(aside, (1, 1))
        aside.replace(path)
        return path

    def click(self, server: Server, name: str, column: int, client: str) -> requests.Response:
        params = {"foreground": [[column, 32, 1]], "client_id": client, "result_extension": ".nii.gz"}
        query = f"/infer/sam_tiny?image={name}&output=image"
        return server.post(query, data={"params": json.dumps(params)})

    def listed(self, server: Server, name: str) -> bool:
        for _ in range(100):
            if name in server.get("/datastore/?output=all").json()["objects"]:
                return True
            time.sleep(0.1)
        return False

    def test_a_click_is_not_for_the_file_that_took_its_place(self, replacing):
        self.put(replacing, "volume", 8)
        assert self.listed(replacing, "volume")
        assert self.click(replacing, "volume", 16, "one").status_code == 200
        self.put(replacing, "volume", 40)
        assert refused(self.click(replacing, "volume", 16, "one"))
        assert self.click(replacing, "volume", 48, "other").status_code == 200
        assert self.click(replacing, "volume", 48, "one").status_code == 200

    def test_the_same_content_in_a_new_file_is_the_same_image(self, replacing):
        content = self.put(replacing, "same", 8).read_bytes()
        assert self.listed(replacing, "same")
        assert self.click(replacing, "same", 16, "one").status_code == 200
        (replacing.studies / "same.nii.gz").write_bytes(content)
        assert self.click(replacing, "same", 16, "one").status_code == 200

    def test_who_brings_an_image_knows_it(self, replacing):
        for column in (8, 40):
            content = self.put(replacing, "brought", column).read_bytes()
            (replacing.studies / "brought.nii.gz").unlink()
            files = {"file": ("mine.nii.gz", content)}
            answer = requests.put(f"{replacing.url}/datastore/image?image=mine", files=files, timeout=60)
            assert answer.status_code == 200, answer.text
            assert self.click(replacing, "mine", column + 8, "").status_code == 200
            assert requests.delete(f"{replacing.url}/datastore/image?id=mine", timeout=60).status_code == 200
