"""The server with its images on a real DICOM archive, Debian's Orthanc, given no more than its address."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import requests
from monailabel.client.client import MONAILabelClient
from PIL import Image

from orthanc import Orthanc
from phantom_series import ORGANS, SERIES
from support.orthanc import running_orthanc
from support.server_process import Server, free_port, running_server

pytestmark = [
    pytest.mark.server,
    # monailabel.client leaves its connections for the garbage collector to close
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CT, MR = SERIES
SPLEEN = next(n for n, organ in enumerate(ORGANS) if organ.name == "spleen")
POINT = list(CT.grid.index(ORGANS[SPLEEN].centre))
LOGIN = ("viewer", "correct horse")


@dataclass
class Archive:
    """A server and the DICOM archive that its images are on."""

    orthanc: Orthanc
    server: Server
    temporary: Path

    def infer(self, series: str, params: dict, query: str = "output=image") -> requests.Response:
        return self.server.post(f"/infer/sam_tiny?image={series}&{query}", data={"params": json.dumps(params)})

    def total(self) -> int:
        return int(self.server.get("/info/").json()["datastore"]["total"])


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("dicomweb")
    temporary = folder / "tmp"
    temporary.mkdir()
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"), "TMPDIR": str(temporary)}
    with running_orthanc(folder / "orthanc") as orthanc:
        orthanc.store(*(file for series in SERIES for file in series.write(folder / "series")))
        with running_server(folder, "hosts", "pacs.hospital", studies=orthanc.dicomweb, variables=variables) as server:
            yield Archive(orthanc, server, temporary)


@pytest.fixture
def client(archive, tmp_path) -> MONAILabelClient:
    return MONAILabelClient(archive.server.url, tmpdir=str(tmp_path))


def _becomes(holds: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.2)
    return False


def test_every_modality_is_listed_within_seconds_and_no_segmentation(archive, sample):
    assert archive.total() == 2
    archive.orthanc.store(sample("liver_1frame.dcm"))  # a DICOM SEG
    archive.orthanc.store(sample("CT_small.dcm"))
    assert _becomes(lambda: archive.total() > 2)
    assert archive.total() == 3


def test_a_list_has_pictures_of_series_that_were_not_fetched(archive):
    before = sorted(archive.temporary.parent.glob("cache/**/*.dcm"))
    answer = archive.server.get(f"/images/{CT.series_uid}/thumbnail")
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.format == "PNG" and picture.size == (96, 96) and np.asarray(picture).std() > 20
    assert sorted(archive.temporary.parent.glob("cache/**/*.dcm")) == before
    unknown = archive.server.get("/images/1.2.3/thumbnail")
    assert unknown.status_code in (404, 502) and "detail" in unknown.json()


@pytest.mark.parametrize("series", SERIES, ids=["CT", "MR"])
def test_the_window_is_that_of_the_dicom_series(archive, series):
    """The NIfTI that MONAI Label makes of a series knows neither modality nor window."""
    point = list(series.grid.index(ORGANS[SPLEEN].centre if series is CT else ORGANS[5].centre))
    answer = archive.infer(series.series_uid, {"foreground": [point]}, "output=json")
    assert answer.status_code == 200, answer.text
    window = answer.json()["window"]
    assert window["source"] == "image"
    assert (window["center"], window["width"]) == ((50, 400) if series is CT else (480, 960))


def test_a_compressed_series_is_fetched_from_an_archive_that_does_not_transcode(archive, sample):
    file = sample("MR_small_jp2klossless.dcm")
    archive.orthanc.store(file)
    header = pydicom.dcmread(file, stop_before_pixels=True)
    answer = archive.infer(header.SeriesInstanceUID, {"foreground": [[32, 32, 0]]}, "output=json")
    assert answer.status_code == 200, answer.text
    assert answer.json()["frames"] == 1


def test_frames_come_through_the_proxy_as_they_are_stored(archive, sample):
    file = sample("MR_small_jp2klossless.dcm")
    archive.orthanc.store(file)
    header = pydicom.dcmread(file, stop_before_pixels=True)
    path = f"studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}/instances/{header.SOPInstanceUID}"
    accept = 'multipart/related; type="image/jp2"; transfer-syntax=1.2.840.10008.1.2.4.90'
    url = f"/proxy/dicom/wado/{path}/frames/1"
    direct = requests.get(f"{archive.orthanc.dicomweb}/{path}/frames/1", headers={"Accept": accept}, timeout=30)
    answer = archive.server.get(url, headers={"Accept": accept})
    assert answer.status_code == direct.status_code == 200
    assert "image/jp2" in answer.headers["Content-Type"] and b"\xff\x4f\xff\x51" in answer.content
    assert len(answer.content) == len(direct.content)


def test_the_proxy_searches_for_what_was_asked(archive):
    found = archive.server.get("/proxy/dicom/qido/studies?PatientID=PHANTOM-MR&includefield=00081030%2C00080060").json()
    assert [study["0020000D"]["Value"] for study in found] == [[MR.study_uid]]
    assert found[0]["00081030"]["Value"] == ["Synthetic torso, MR"]
    assert archive.server.get("/proxy/dicom/qido/studies/1.2.3/series").status_code in (200, 404)


def test_ohif_s_page_loads_fonts_styles_and_scripts_from_this_server_alone(archive):
    page = archive.server.get("/ohif/viewer")
    assert "https://fonts.googleapis.com" in page.text, "what the policy is for"
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert all("'self'" in policy[kind] for kind in ("font-src", "style-src", "script-src", "worker-src"))
    assert not any("http" in sources or "*" in sources for sources in policy.values())


def test_ohif_s_page_loads_the_script_for_its_panel_too(archive):
    assert archive.server.get("/ohif/").text.count('<script type="module" src="/ohif/ohif_panel.js"></script>') == 1
    script = archive.server.get("/ohif/ohif_panel.js")
    assert script.status_code == 200 and "javascript" in script.headers["content-type"]
    assert script.headers["cache-control"] == "no-cache"


def test_ohif_s_page_tells_its_plugin_where_the_server_is(archive):
    page = archive.server.get("/ohif/monai-label?StudyInstanceUIDs=1.2")
    address = archive.server.url.replace(":", "%3A").replace("/", "%2F") + "%2F"
    assert f"MONAILABEL_SERVER_URL={address}; Path=/ohif" in page.headers["Set-Cookie"]
    assert page.headers["Cache-Control"] == "private, no-cache"
    other = archive.server.get("/ohif/", headers={"Host": "pacs.hospital:8443", "X-Forwarded-Proto": "https"})
    assert all(cookie.secure for cookie in other.cookies)
    assert "MONAILABEL_SERVER_URL=https%3A%2F%2Fpacs.hospital%3A8443%2F" in other.headers["Set-Cookie"]
    assert "MONAILABEL_SERVER_URL" not in archive.server.get("/ohif/app-config.js").headers.get("Set-Cookie", "")


def test_monailabel_client_from_sample_to_saved_label(archive, client, tmp_path):
    """Every call that 3D Slicer makes, with the images on a DICOM archive."""
    info = client.info()
    assert "sam_tiny" in info["models"] and info["datastore"]["total"] >= 2
    sample = client.next_sample("first", {})
    assert sample["id"] == sample["SeriesInstanceUID"] and sample["Modality"] in ("CT", "MR")
    series = CT.series_uid
    path, facts = client.infer("sam_tiny", series, {"foreground": [POINT], "slice": POINT[2], "client_id": "tester"})
    labels = np.asarray(nibabel.load(path).dataobj)
    truth = CT.grid.label(SPLEEN).T
    k = POINT[2]
    assert labels.shape == truth.shape and facts["slice"] == k
    assert not labels[:, :, :k].any() and not labels[:, :, k + 1 :].any()
    overlap = np.count_nonzero((labels[:, :, k] > 0) & truth[:, :, k])
    assert 2 * overlap / (np.count_nonzero(labels) + np.count_nonzero(truth[:, :, k])) > 0.8

    image = tmp_path / "image.nii.gz"
    image.write_bytes(archive.server.get(f"/datastore/image?image={series}").content)
    values = nibabel.load(image)
    assert np.array_equal(np.asarray(values.dataobj), CT.values().T)

    label = tmp_path / "label.nii.gz"
    nibabel.Nifti1Image(truth.astype(np.uint8), values.affine).to_filename(label)
    completed = client.info()["datastore"]["completed"]
    segmentations = _segmentations(archive)
    client.save_label(series, str(label), tag="final", params={"label_info": [{"name": "spleen", "idx": 1}]})
    assert _segmentations(archive) == segmentations + 1
    assert client.info()["datastore"]["completed"] == completed + 1
    saved = client.download_label(series, "final")
    assert np.array_equal(np.asarray(nibabel.load(saved).dataobj) > 0, truth)
    assert series in client.datastore()["objects"]

    session = client.create_session(str(image))["session_id"]
    assert client.get_session(session)["image"]
    path, _ = client.infer("sam_tiny", "", {"foreground": [POINT]}, session_id=session)
    assert nibabel.load(path).shape == truth.shape
    client.remove_session(session)


def _segmentations(archive: Archive) -> int:
    found = requests.get(f"{archive.orthanc.dicomweb}/studies/{CT.study_uid}/series?Modality=SEG", timeout=30)
    return len(found.json()) if found.status_code == 200 else 0


@pytest.mark.parametrize(
    ("params", "k"),
    [
        ({"foreground": [POINT], "background": []}, POINT[2]),
        ({"foreground": [[192, 142, 0]], "slice": 0}, 0),
        ({"foreground": [], "roi": [215, 170, 118, 166, POINT[2], POINT[2]], "slice": -12.5}, POINT[2]),
    ],
    ids=["a point", "slice 0", "a region, a pair of which is the wrong way round"],
)
def test_slicer_s_requests(client, params, k):
    sent = {"label": "spleen", "result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "tester", **params}
    path, facts = client.infer("sam_tiny", CT.series_uid, sent)
    labels, _ = nrrd.read(path)
    assert facts["slice"] == k and set(np.flatnonzero(labels.any(axis=(0, 1)))) <= {k}
    assert labels.any() and labels.max() == 1


def test_no_temporary_file_stays(archive):
    """Of what the tests above asked for, and of a download."""
    assert archive.server.get(f"/datastore/image?image={MR.series_uid}").status_code == 200
    assert archive.infer(MR.series_uid, {"foreground": [[80, 70, 10]]}).status_code == 200

    def left() -> list[Path]:
        return [path for path in archive.temporary.rglob("*") if path.is_file()]

    assert _becomes(lambda: not left()), left()


def test_an_archive_that_is_away_is_told_as_such_and_found_again(tmp_path):
    port = free_port()
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache")}
    studies = f"http://127.0.0.1:{port}/dicom-web"
    with running_server(tmp_path / "server", studies=studies, variables=variables) as server:
        archive = Archive(Orthanc(studies), server, tmp_path)
        asked = [
            server.get("/info/"),
            server.get("/proxy/dicom/qido/studies"),
            server.post("/activelearning/first"),
            archive.infer("1.2.3.4", {"foreground": [[1, 1, 1]]}),
        ]
        for answer in asked:
            assert answer.status_code == 503, answer.text
            assert answer.json()["detail"] == "the DICOMweb server cannot be reached"
        assert server.get("/health_check/").status_code == 200
        with running_orthanc(tmp_path / "orthanc", port=port) as orthanc:
            orthanc.store(*CT.write(tmp_path / "series"))
            assert archive.total() == 1


def test_the_login_of_the_archive_is_the_servers_alone(tmp_path):
    cache = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache")}
    login = {"MONAI_LABEL_DICOMWEB_USERNAME": LOGIN[0], "MONAI_LABEL_DICOMWEB_PASSWORD": LOGIN[1]}
    with running_orthanc(tmp_path / "orthanc", login=LOGIN) as orthanc:
        orthanc.store(*CT.write(tmp_path / "series"))
        with running_server(tmp_path / "with", studies=orthanc.dicomweb, variables=cache | login) as server:
            archive = Archive(orthanc, server, tmp_path)
            assert archive.total() == 1
            assert archive.infer(CT.series_uid, {"foreground": [POINT]}).status_code == 200
            assert len(server.get("/proxy/dicom/qido/studies", auth=("any", "one")).json()) == 1
        with running_server(tmp_path / "without", studies=orthanc.dicomweb, variables=cache) as server:
            for answer in (server.get("/info/"), server.get("/proxy/dicom/qido/studies", auth=LOGIN)):
                assert answer.status_code == 502, answer.text
                assert "MONAI_LABEL_DICOMWEB_PASSWORD" in answer.json()["detail"]
                assert "WWW-Authenticate" not in answer.headers and LOGIN[1] not in answer.text
        logs = [(tmp_path / name / "server.log").read_text() for name in ("with", "without")]
        assert not any(LOGIN[1] in log for log in logs)
