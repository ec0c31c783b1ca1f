"""What MONAI Label's server gives away and ours does not: the same attacks on both."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.data import get_testdata_file

from support.attacks import ATTACKS, DICOMWEB_ATTACKS, IMAGE, Attack, Target
from support.bare_app import write_bare_app
from support.orthanc import Orthanc, running_orthanc
from support.phantoms import BALL_AFFINE, ball_volume
from support.server_process import SAM_APP, Server, running_server

pytestmark = pytest.mark.server


def _each(attacks: list[Attack]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("attack", attacks, ids=[attack.name.replace(" ", "-") for attack in attacks])


attacks = _each(ATTACKS)
dicomweb_attacks = _each(DICOMWEB_ATTACKS)


def _target(folder: Path, server: Server) -> Target:
    """The server with what an attack is after."""
    secret = folder / "secret.nii.gz"
    nibabel.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.eye(4)).to_filename(secret)
    return Target(server, folder, secret)


@pytest.fixture(scope="module")
def serve(tmp_path_factory) -> Callable[[Path | None], AbstractContextManager[Target]]:
    """Starts a server with a folder of images; without an app with one that does nothing."""

    @contextmanager
    def start(app: Path | None) -> Iterator[Target]:
        folder = tmp_path_factory.mktemp("server")
        (folder / "studies").mkdir()
        nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(folder / "studies" / "ball.nii.gz")
        with running_server(folder, app=app or write_bare_app(folder / "app")) as server:
            yield _target(folder, server)

    return start


@pytest.fixture(scope="module")
def bare(serve) -> Iterator[Target]:
    """MONAI Label's server as it is."""
    with serve(None) as target:
        yield target


@pytest.fixture(scope="module")
def ours(serve) -> Iterator[Target]:
    with serve(SAM_APP) as target:
        yield target


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc") / "store") as running:
        running.store(Path(str(get_testdata_file("CT_small.dcm", download=False))))
        yield running


@pytest.fixture(scope="module")
def serve_dicomweb(tmp_path_factory, orthanc) -> Callable[[Path | None], AbstractContextManager[Target]]:
    """Starts a server whose images are on Orthanc."""

    @contextmanager
    def start(app: Path | None) -> Iterator[Target]:
        folder = tmp_path_factory.mktemp("dicomweb")
        variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")}
        (folder / "secret").mkdir()
        (folder / "secret" / "file").touch()
        app = app or write_bare_app(folder / "app")
        with running_server(folder, app=app, studies=orthanc.dicomweb, variables=variables) as server:
            yield _target(folder, server)

    return start


@pytest.fixture(scope="module")
def bare_dicomweb(serve_dicomweb) -> Iterator[Target]:
    with serve_dicomweb(None) as target:
        yield target


@pytest.fixture(scope="module")
def ours_dicomweb(serve_dicomweb) -> Iterator[Target]:
    with serve_dicomweb(SAM_APP) as target:
        yield target


def _check_worked(target: Target, attack: Attack) -> None:
    answer = attack.send(target)
    assert attack.worked(target, answer), f"{answer.status_code}: {answer.text[:500]}"


def _check_failed(target: Target, attack: Attack) -> None:
    answer = attack.send(target)
    assert not attack.worked(target, answer), f"{answer.status_code}: {answer.text[:500]}"
    assert not target.tells_paths(answer), answer.text
    if attack.is_refused:
        assert 400 <= answer.status_code < 500, answer.text
        assert isinstance(answer.json()["detail"], str), answer.text
    else:
        assert answer.status_code == 200 and answer.json()


@attacks
def test_an_attack_works_on_upstream_s_server(bare: Target, attack: Attack):
    _check_worked(bare, attack)


@attacks
def test_the_same_attack_fails_on_ours(ours: Target, attack: Attack):
    _check_failed(ours, attack)


@dicomweb_attacks
def test_an_attack_works_on_upstream_s_server_with_dicomweb(bare_dicomweb: Target, attack: Attack):
    _check_worked(bare_dicomweb, attack)


@dicomweb_attacks
def test_the_same_attack_fails_on_ours_with_dicomweb(ours_dicomweb: Target, attack: Attack):
    _check_failed(ours_dicomweb, attack)


def test_with_dicomweb_what_viewers_ask_for_still_comes(ours_dicomweb: Target):
    sample = ours_dicomweb.send("POST", "/activelearning/first")
    series, study = sample.json()["id"], sample.json()["StudyInstanceUID"]
    assert not ours_dicomweb.tells_paths(sample)
    content = ours_dicomweb.send("GET", f"/datastore/image?image={series}").content
    assert nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).shape == (128, 128, 1)
    for path in ("qido/studies", "wado/studies", f"qido/studies/{study}/series", f"studies/{study}/series"):
        assert len(ours_dicomweb.send("GET", f"/proxy/dicom/{path}").json()) == 1, path
    metadata = ours_dicomweb.send("GET", f"/proxy/dicom/wado/studies/{study}/series/{series}/metadata").json()
    assert metadata[0]["0020000E"]["Value"] == [series]


def test_with_dicomweb_images_are_not_uploaded_here(ours_dicomweb: Target):
    """Upstream puts them into its cache, where one could stand in for a series."""
    answer = ours_dicomweb.send("PUT", "/datastore/image?image=1.2.3", files={"file": ("a.nii.gz", IMAGE)})
    assert answer.status_code == 422 and "DICOMweb server" in answer.json()["detail"]
    assert not list(ours_dicomweb.folder.glob("cache/*/1.2.3*"))
