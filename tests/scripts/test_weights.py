"""scripts/weights.py as a command: what it prints and how it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import weights
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.checksums import ChecksumFile, ChecksumRecord, Digests, FileStamp
from lib.sam.models.registry import MODELS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def test_list_shows_every_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.mkdir()
    (folder / "sam_vit_b_01ec64.pth").write_bytes(b"not the real one")
    assert weights.main(["--folder", str(folder), "list"]) == 0
    shown = capsys.readouterr().out.splitlines()[2:]
    lines = {line.split()[0]: line for line in shown[::2]}
    assert list(lines) == list(MODELS)
    assert [line.split()[0] for line in shown[1::2]] == [spec.checkpoint for spec in MODELS.values()]
    assert " unverified " in lines["sam_vit_b"]
    assert " 16 " in lines["sam_vit_b"]
    assert "missing" in lines["sam_vit_h"]


def test_the_list_fits_100_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also with every file there, of the largest size, and its checksum known."""
    folder.mkdir()
    checksums = ChecksumFile(folder / "checksums.json")
    for spec in MODELS.values():
        file = folder / spec.checkpoint
        file.touch()
        os.truncate(file, 9_999_999_999)  # it takes no space
        digests = Digests(sha256="0" * 64, md5="0" * 32)
        checksums.put(spec.checkpoint, ChecksumRecord(digests, verified=FileStamp.of(file)))
    weights.main(["--folder", str(folder), "list"])
    shown = capsys.readouterr().out.splitlines()
    assert sum("0" * 64 in line for line in shown) == sum(" 9,999,999,999 " in line for line in shown) == len(MODELS)
    assert max(map(len, shown)) <= 100


def test_verify_names_the_wrong_file_and_the_list_remembers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.mkdir()
    (folder / "sam_vit_b_01ec64.pth").write_bytes(b"not the real one")
    assert weights.main(["--folder", str(folder), "verify"]) == 1
    assert "sam_vit_b: the file for sam_vit_b is damaged or another one" in capsys.readouterr().err
    weights.main(["--folder", str(folder), "list"])
    assert " does not match " in capsys.readouterr().out


def test_verify_of_a_missing_file_says_how_to_get_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.main(["--folder", str(folder), "verify", "sam_vit_l"]) == 1
    assert "scripts/weights download sam_vit_l" in capsys.readouterr().err


def test_verify_of_nothing_is_right(folder: Path) -> None:
    assert weights.main(["--folder", str(folder), "verify"]) == 0


def test_an_unknown_model_lists_the_known_ones(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["download", "sam_vit_x"], ["verify", "sam_vit_x"]):
        assert weights.main(["--folder", str(folder), *command]) == 2
        message = capsys.readouterr().err
        assert all(name in message for name in ("sam_vit_x", *MODELS))


def test_add_refuses_what_is_no_checkpoint(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.pth"
    file.write_text("<html>")
    assert weights.main(["--folder", str(folder), "add", str(file)]) == 1
    assert "page.pth is not a readable checkpoint" in capsys.readouterr().err


def test_download_without_a_url_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.main(["--folder", str(folder), "download", "medsam_vit_b"]) == 1
    assert "scripts/weights add medsam_vit_b.pth" in capsys.readouterr().err


def test_the_bundled_model_is_added_and_listed_with_its_checksum(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    spec, file = MODELS["sam_tiny"], tmp_path / "sam_tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in spec.build().state_dict().items()}, file)
    assert weights.main(["--folder", str(folder), "add", str(file)]) == 0
    weights.main(["--folder", str(folder), "list"])
    shown = capsys.readouterr().out
    assert CheckpointStore(folder).verify(spec).sha256 in shown
    assert " verified " in shown


def test_help_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        weights.main(["--help"])
    assert ended.value.code == 0
    assert "download" in capsys.readouterr().out
