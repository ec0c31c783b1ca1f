"""``scripts/precompute``: what it encodes, in which order, what it leaves out, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from monailabel.config import settings
from PIL import Image

import precompute
from lib.base.clock import Clock, use_clock
from lib.imaging.limits import Limits
from lib.imaging.readers import read_image
from lib.infers.sam_2d import Sam2D
from lib.sam.embeddings.disk import EmbeddingFiles
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import get_spec
from lib.studies.folder_datastore import FolderDatastore
from precompute import find_images, from_the_middle, main
from support.dicomweb_stand_in import running_stand_in
from support.made_workers import EncodesTogether
from support.segment_requests import viewer_request
from support.server_process import REPOSITORY

pytestmark = pytest.mark.slow  # each command loads a model

VOLUME = np.random.default_rng(5).integers(-1000, 800, (40, 32, 5), dtype=np.int16)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A volume of five slices and a picture."""
    folder = tmp_path / "studies"
    folder.mkdir()
    nibabel.Nifti1Image(VOLUME, np.diag([-1.0, -1.0, 2.0, 1.0])).to_filename(folder / "a volume.nii.gz")
    Image.fromarray(VOLUME[..., 0].astype(np.uint8)).save(folder / "picture.png")
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "embeddings"


@pytest.fixture
def run(studies, kept, capsys):
    """Runs the command; answers its status, its summary and what it says besides."""

    def run(*arguments: str) -> tuple[int, dict, str]:
        status = main(["--studies", str(studies), "--embeddings", str(kept), "--json", *arguments])
        said = capsys.readouterr()
        return status, json.loads(said.out) if said.out else {}, said.err

    return run


def stages_of_a_click(kept: Path, image: Path, k: int, **options: object) -> set[str]:
    """Of the model's own task in a new engine, as ``/infer`` calls it."""
    engine = Engine([get_spec("sam_tiny")], MODEL_FOLDER, device="cpu", embedding_files=EmbeddingFiles(kept, 1 << 30))
    task = Sam2D("sam_tiny", engine, Limits())
    with use_clock(Clock()) as clock:
        path, _ = task(viewer_request(str(image), foreground=[[10, 12, k]], result_extension=".nrrd", **options))
    os.unlink(path)
    return set(clock.stages)


def test_every_slice_is_there_for_a_click_and_none_of_another_window(run, studies, kept):
    status, summary, _ = run("--device", "cpu")
    assert (status, summary["ending"], summary["unread"]) == (0, "complete", {})
    assert (summary["images"], summary["encoded"], summary["present"]) == (2, 6, 0)
    files = list(kept.glob("*.embedding"))
    assert len(files) == 6 and summary["bytes"] == sum(file.stat().st_size for file in files)
    for image, k in (("a volume.nii.gz", 0), ("a volume.nii.gz", 4), ("picture.png", 0)):
        stages = stages_of_a_click(kept, studies / image, k)
        assert "embedding" in stages and "encode" not in stages
    assert "encode" in stages_of_a_click(kept, studies / "a volume.nii.gz", 1, window="bone")


def test_a_window_can_be_chosen(run, studies, kept):
    assert run("--device", "cpu", "--window", "bone", "--series", "a volume.nii.gz")[0] == 0
    assert "encode" not in stages_of_a_click(kept, studies / "a volume.nii.gz", 1, window="bone")
    assert "encode" in stages_of_a_click(kept, studies / "a volume.nii.gz", 1)


def test_a_second_run_encodes_only_what_is_not_there(run, kept):
    run()
    used = sorted(kept.glob("*.embedding"))
    used[0].unlink()
    used[1].write_bytes(used[1].read_bytes()[:-1])
    status, summary, _ = run()
    assert (status, summary["encoded"], summary["present"]) == (0, 2, 4)
    assert sorted(kept.glob("*.embedding")) == used
    assert run()[1]["encoded"] == 0


def test_the_summary_in_words(studies, kept, capsys):
    assert main(["--studies", str(studies), "--embeddings", str(kept)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 images with sam_tiny: 6 slices encoded, 0 were there already; ")
    assert said.count("\n") == 1 and " slices/s, " in said and said.endswith(" MB\n")


def test_from_the_middle_outwards():
    assert from_the_middle(5) == [2, 1, 3, 0, 4]
    assert from_the_middle(4) == [2, 1, 3, 0]
    assert from_the_middle(1) == [0]


def test_the_middle_is_encoded_first(run, studies, kept, monkeypatch):
    order = []
    windowed_frame = precompute.windowed_frame
    monkeypatch.setattr(
        precompute, "windowed_frame", lambda image, k, window: order.append(k) or windowed_frame(image, k, window)
    )
    run("--series", "a volume.nii.gz")
    assert order == [2, 1, 3, 0, 4]


def test_the_images_of_a_folder_are_those_that_the_server_lists(studies, tmp_path):
    for name in ("notes.txt", "datastore_v2.json"):
        (studies / name).write_text("{}" if name.endswith("json") else "no image")
    (studies / "._picture.png").write_bytes(bytes(100))
    (studies / "labels" / "final").mkdir(parents=True)
    (studies / "labels" / "final" / "picture.png").write_bytes((studies / "picture.png").read_bytes())
    (studies / "datastore_v2.json").unlink()
    before = sorted(studies.rglob("*"))
    found = {os.path.realpath(source.find()) for source in find_images(str(studies), None, {}).values()}
    assert sorted(studies.rglob("*")) == before, "it must not get in the way of a server that uses the folder"
    listed = FolderDatastore(studies, studies, read_image, read_image)
    assert found == {listed.get_image_uri(one) for one in listed.list_images()} and len(found) == 2


def test_what_cannot_be_read_is_named_and_the_rest_is_done(run, studies, sample):
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    dataset.PatientName, dataset.Rows = "DOE^JANE", 7
    dataset.save_as(studies / "1.nrrd")
    (studies / "2.png").write_bytes(b"DOE^JANE is no picture")
    (studies / "3.nii").mkdir()
    (studies / "4.png").symlink_to("nowhere")
    status, summary, said = run()
    assert status == 1 and summary["ending"] == "complete"
    assert (summary["images"], summary["encoded"]) == (2, 6)
    assert list(summary["unread"]) == ["1.nrrd", "2.png", "3.nii", "4.png"]
    assert "2.png was not read: found: " in said and "4.png was not read: there is no such image" in said
    assert not any(word in said for word in ("DOE", "JANE", str(studies)))


def test_an_unexpected_error_is_of_one_image_and_tells_its_kind_alone(run, monkeypatch):
    def fail(image, k, preset):
        if image.frame_count > 1:
            raise LookupError("DOE^JANE")
        return None, None

    monkeypatch.setattr(precompute, "choose_window", fail)
    status, summary, said = run()
    assert (status, summary["images"]) == (1, 1) and "DOE" not in said
    assert summary["unread"] == {"a volume.nii.gz": "an unexpected LookupError"}


def test_only_what_was_asked_for(run):
    assert run("--series", "picture.png")[1]["encoded"] == 1
    status, summary, said = run("--series", "picture.png", "other.png")
    assert (status, summary["present"]) == (1, 1) and "other.png was not read: there is no such image" in said
    assert run("--limit", "1")[1]["encoded"] == 5


def test_a_bound_that_is_too_small_is_told_and_keeps_what_was_done(run, kept):
    run("--series", "picture.png")
    size = next(kept.glob("*.embedding")).stat().st_size
    old = next(kept.glob("*.embedding"))
    room = str(3.5 * size / 2**20)
    status, summary, said = run("--embeddings-max-mb", room, "--series", "a volume.nii.gz")
    assert (status, summary["ending"], summary["encoded"]) == (1, "bound reached", 3)
    assert "would push out what was" in said and "--conf embeddings_max_mb" in said
    assert not old.exists(), "what was not asked for makes room"
    assert run("--embeddings-max-mb", room, "--series", "a volume.nii.gz")[1]["present"] == 3
    exactly = str(5 * size / 2**20)
    status, summary, _ = run("--embeddings-max-mb", exactly, "--series", "a volume.nii.gz")
    assert (status, summary["encoded"], summary["present"]) == (0, 2, 3)


def test_embeddings_that_cannot_be_kept_end_it(run, kept, caplog):
    kept.write_text("not a folder")
    status, summary, said = run()
    assert (status, summary["ending"], summary["encoded"]) == (1, "not writable", 0)
    assert f"embeddings cannot be kept in {kept}" in said
    assert "Embeddings are not kept on disk: File exists" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--models", "sam_vit_x"], "sam_vit_x"),
        (["--models", ","], "--models needs a name"),
        (["--models", "sam_vit_l", "--model-dir", "/nowhere"], "scripts/weights download sam_vit_l"),
        (["--studies", "/no/where"], "--studies /no/where: there is no such folder"),
        (["--studies", "http://anna:secret@pacs/dicom-web"], "contains a login"),
        (["--query", "Modality=CT"], "--query is for a DICOMweb server"),
        (["--studies", "http://pacs", "--query", "Modality"], "--query Modality: it must be a DICOM keyword"),
        (["--studies", "http://pacs", "--query", "Modalty=CT"], "--query Modalty=CT: it must be a DICOM keyword"),
        (["--limit", "0"], "--limit a number above 0"),
        (["--embeddings-max-mb", "0"], "--embeddings-max-mb and"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(run, kept, arguments, reason):
    status, summary, said = run(*arguments)
    assert (status, summary) == (2, {}) and reason in said and "secret" not in said
    assert not kept.exists()


def test_a_dicomweb_server_is_asked_for_what_the_query_says(run, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    with running_stand_in() as stand_in:
        images = find_images(f"{stand_in.url}/", None, {"StudyDate": "20260101-20260131", "Modality": "CT"})
        assert list(images) == ["1.2.3.4"]
        path = stand_in.requests[-1][1]
        assert "StudyDate=20260101-20260131" in path and "Modality=CT" in path
        chosen = find_images(stand_in.url, ["1.2.3.4", "9.9"], {"Modality": "CT"})
        assert list(chosen) == ["1.2.3.4", "9.9"] and chosen["9.9"] is precompute.MISSING
        assert list(find_images(stand_in.url, ["1.2.3.4"], {})) == ["1.2.3.4"]
        assert "SeriesInstanceUID=1.2.3.4" in stand_in.requests[-1][1]
    status, summary, said = run("--studies", stand_in.url)
    assert (status, summary) == (1, {}) and "the DICOMweb server cannot be reached" in said


def test_interrupted_it_keeps_what_is_done_and_goes_on_the_next_time(run, studies, kept):
    """As a process of its own, which has a low priority and starts no server."""
    large = np.random.default_rng(6).integers(-1000, 800, (64, 64, 30), dtype=np.int16)
    nibabel.Nifti1Image(large, np.eye(4)).to_filename(studies / "a volume.nii.gz")
    code = "import sys, runpy; sys.argv = sys.argv[1:]\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "finally: print('monailabel.app' in sys.modules, file=sys.stderr)"
    command = [str(REPOSITORY / "scripts" / "precompute.py"), "--studies", str(studies), "--embeddings", str(kept)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'apps' / 'sam_app'}:{REPOSITORY / 'scripts'}"},
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(kept.glob("*.embedding"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    summary = json.loads(out)
    assert process.returncode == 130 and summary["ending"] == "interrupted"
    assert "interrupted: what is done is kept" in err and "Traceback" not in err and err.endswith("False\n")
    done = summary["encoded"]
    assert 2 <= done < 30 and done <= len(list(kept.glob("*.embedding"))) <= done + 2
    status, summary, _ = run()
    assert status == 0 and done <= summary["present"] <= done + 2
    assert summary["encoded"] + summary["present"] == 31


def test_what_is_done_and_has_not_changed_is_not_read_again(run, studies, kept, monkeypatch):
    run()
    read = []
    load = precompute.LoadMedicalImage.__call__
    monkeypatch.setattr(
        precompute.LoadMedicalImage, "__call__", lambda self, path: read.append(path.name) or load(self, path)
    )
    size = sum(file.stat().st_size for file in kept.glob("*.embedding"))
    for used in kept.glob("*.embedding"):
        os.utime(used, (1, 1))
    status, summary, _ = run()
    assert (status, summary["images"], summary["unchanged"], summary["present"]) == (0, 2, 2, 6)
    assert (summary["encoded"], summary["bytes"], read) == (0, size, [])
    assert all(used.stat().st_mtime > 1 for used in kept.glob("*.embedding")), "they are the last to make room"

    os.utime(studies / "picture.png", (1, 1))
    assert run()[1]["present"] == 6 and read == ["picture.png"], "it may have changed"
    assert run("--window", "bone", "--series", "picture.png")[1]["unchanged"] == 0
    assert run("--again")[1]["unchanged"] == 0 and len(read) == 4
    largest = max(kept.glob("*.embedding"), key=lambda file: file.stat().st_size)
    largest.unlink()
    del read[:]
    assert run()[1]["encoded"] == 1 and len(read) == 1


def test_what_could_not_be_read_is_tried_again(run, studies):
    whole = (studies / "picture.png").read_bytes()
    (studies / "picture.png").write_bytes(whole[:50])
    assert list(run()[1]["unread"]) == ["picture.png"]
    assert list(run()[1]["unread"]) == ["picture.png"]
    (studies / "picture.png").write_bytes(whole)
    status, summary, _ = run()
    assert (status, summary["encoded"], summary["unchanged"]) == (0, 1, 1)


def test_workers_encode_several_slices_at_once(run, kept, monkeypatch):
    local = Engine([get_spec("sam_tiny")], MODEL_FOLDER, device="cpu").predictor("sam_tiny")
    workers = EncodesTogether(local, alone=1)  # whose size is then known
    asked = []
    monkeypatch.setattr(precompute, "_start_workers", lambda arguments, specs: asked.append(arguments) or workers)
    chosen = "--device", "cpu", "--series", "a volume.nii.gz"
    status, summary, _ = run(*chosen, "--workers", "ray:2", "--worker-cores", "3")
    assert (status, summary["images"], summary["encoded"]) == (0, 1, 5)
    assert len(list(kept.glob("*.embedding"))) == len(workers.orders) == 5
    assert (asked[0].workers.here, asked[0].worker_cores) == ((2, 2), 3)
    monkeypatch.undo()
    assert run(*chosen)[1]["unchanged"] == 1, "it does not matter who encoded it"


def test_a_slice_that_fails_gives_up_its_image_and_no_other(run, kept, monkeypatch):
    encode = precompute.Predictor.encode

    def fail(self, frame):
        if frame is failing:
            raise LookupError("of the test")
        return encode(self, frame)

    failing = None
    seen = []
    windowed_frame = precompute.windowed_frame

    def third(image, k, window):
        nonlocal failing
        frame = windowed_frame(image, k, window)
        seen.append(k)
        if len(seen) == 3:
            failing = frame
        return frame

    monkeypatch.setattr(precompute, "windowed_frame", third)
    monkeypatch.setattr(precompute.Predictor, "encode", fail)
    status, summary, _ = run()
    assert status == 1 and summary["unread"] == {"a volume.nii.gz": "an unexpected LookupError"}
    assert summary["images"] == 1 and summary["encoded"] in (3, 4, 5)
    monkeypatch.setattr(precompute.Predictor, "encode", encode)
    status, again, _ = run()
    assert (status, again["images"], again["encoded"] + summary["encoded"]) == (0, 2, 6)


def test_killed_it_goes_on_the_next_time(run, studies, kept):
    large = np.random.default_rng(6).integers(-1000, 800, (64, 64, 12), dtype=np.int16)
    for name in "bc":
        nibabel.Nifti1Image(large + ord(name), np.eye(4)).to_filename(studies / f"{name}.nii.gz")
    script = REPOSITORY / "scripts" / "precompute.py"
    command = [sys.executable, str(script), "--studies", str(studies), "--embeddings", str(kept)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "apps" / "sam_app")}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        deadline = time.monotonic() + 120
        while len(list(kept.glob("*.embedding"))) < 9 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    there = {file: file.stat().st_size for file in kept.glob("*.embedding")}
    assert 9 <= len(there) < 30
    status, summary, _ = run()
    assert (status, summary["images"], summary["encoded"] + len(there)) == (0, 4, 30)
    assert summary["unchanged"] >= 1 and summary["present"] == len(there)
    assert {file: file.stat().st_size for file in there} == there
    assert run()[1]["unchanged"] == 4
