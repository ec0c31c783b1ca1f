import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lib.sam.runtimes import openvino_ir
from lib.sam.runtimes.openvino_ir import (
    ENCODER,
    FOLDER,
    MANIFEST,
    NetworkKey,
    convert,
    find_networks,
    keep_networks,
    openvino,
)
from lib.sam.runtimes.openvino_runtime import OpenVinoRuntime
from lib.sam.runtimes.runtime import Networks, RuntimeUnavailableError

KEY = NetworkKey("sam_test", "a" * 64)


class Decoder(nn.Module):
    """Something of SAM's interface that is converted in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 4)

    def predict_masks(self, *, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings):
        places = image_embeddings + image_pe + dense_prompt_embeddings
        scores = self.mix(places.mean(dim=(2, 3)) + sparse_prompt_embeddings.sum(dim=1))
        return scores[:, :, None, None] * places[:, :1], scores


@pytest.fixture
def networks() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Encoder, decoder and positional encoding."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 8, 4, stride=4).eval(), Decoder().eval(), torch.randn(1, 8, 8, 8)


def test_they_are_converted_once_and_compared(tmp_path: Path, networks, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    folder = convert(tmp_path, KEY, Networks(*networks, side=32))
    manifest = json.loads((folder / MANIFEST).read_text())
    assert set(manifest["files"]) == {"encoder.xml", "encoder.bin", "decoder.xml", "decoder.bin"}
    assert 0 <= max(manifest["relative_difference"].values()) < 1e-5
    assert convert(tmp_path, KEY, Networks(*networks, side=32)) == folder
    assert caplog.text.count("Converting sam_test for OpenVINO") == 1
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [folder.name]


def test_any_number_of_objects_and_tokens_is_decoded(tmp_path: Path, networks):
    encoder, decoder, pe = networks
    runtime = OpenVinoRuntime(convert(tmp_path, KEY, Networks(encoder, decoder, pe, side=32)))
    pixels = torch.randn(1, 3, 32, 32)
    features = runtime.encode(pixels)[0]
    torch.testing.assert_close(features, encoder(pixels), rtol=1e-4, atol=1e-5)
    for objects, tokens in ((1, 0), (1, 1), (5, 3), (2, 40)):
        sparse = torch.randn(objects, tokens, 8)
        for dense in (torch.randn(objects, 8, 8, 8), torch.randn(1, 8, 1, 1).expand(objects, -1, 8, 8)):
            masks, scores = runtime.decode([features], sparse, dense)
            expected = decoder.predict_masks(
                image_embeddings=features, image_pe=pe, sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense
            )
            torch.testing.assert_close((masks, scores), expected, rtol=1e-4, atol=1e-5)


def test_another_checkpoint_makes_others_and_the_old_ones_go(tmp_path: Path, networks):
    first = convert(tmp_path, KEY, Networks(*networks, side=32))
    second = convert(tmp_path, NetworkKey("sam_test", "b" * 64), Networks(*networks, side=32))
    assert first != second and not first.exists() and second.exists()


@pytest.mark.parametrize("damage", ["changed", "truncated", "no manifest", "manifest of nonsense"])
def test_damaged_networks_are_made_anew(tmp_path: Path, networks, damage: str):
    folder = convert(tmp_path, KEY, Networks(*networks, side=32))
    weights = folder / "encoder.bin"
    content = weights.read_bytes()
    if damage == "changed":
        weights.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "truncated":
        weights.write_bytes(content[:-1])
    elif damage == "no manifest":
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text("[1]")
    assert find_networks(tmp_path, KEY) is None
    assert convert(tmp_path, KEY, Networks(*networks, side=32)) == folder
    assert weights.read_bytes() == content


def test_who_starts_at_the_same_time_waits_for_the_one_that_converts(tmp_path: Path):
    made: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def make(folder: Path) -> dict[str, Any]:
        made.append(1)
        begun.set()
        assert go_on.wait(10)
        (folder / ENCODER).write_text("network")
        return {}

    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(keep_networks(tmp_path, KEY, make))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    assert find_networks(tmp_path, KEY) is None, "nobody sees half of it"
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1 and len(set(folders)) == 1


def test_a_failure_leaves_nothing_behind(tmp_path: Path):
    def make(folder: Path) -> dict[str, Any]:
        (folder / ENCODER).write_text("half")
        raise RuntimeUnavailableError("of the test")

    with pytest.raises(RuntimeUnavailableError, match="of the test"):
        keep_networks(tmp_path, KEY, make)
    assert not list((tmp_path / FOLDER).iterdir())


def test_networks_that_differ_from_pytorch_s_are_refused(tmp_path: Path, networks, monkeypatch):
    monkeypatch.setattr(openvino_ir, "MAX_DIFFERENCE", -1.0)
    with pytest.raises(RuntimeUnavailableError, match="differs from PyTorch's"):
        convert(tmp_path, KEY, Networks(*networks, side=32))
    assert not list((tmp_path / FOLDER).iterdir())


def test_what_cannot_be_converted_is_said_without_a_path(tmp_path: Path, networks):
    class Stubborn(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(torch.linalg.svdvals(x.flatten(1)).sum())

    with pytest.raises(RuntimeUnavailableError, match="OpenVINO cannot convert sam_test") as caught:
        convert(tmp_path, KEY, Networks(Stubborn(), *networks[1:], side=32))
    assert str(tmp_path) not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_said_without_its_path(tmp_path: Path, networks):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    with pytest.raises(RuntimeUnavailableError, match="cannot be kept") as caught:
        convert(tmp_path, KEY, Networks(*networks, side=32))
    assert str(tmp_path) not in str(caught.value)


def test_the_telemetry_is_never_loaded():
    """In a process of its own, as pytest's may have it already."""
    openvino()
    code = (
        "import sys; from lib.sam.runtimes.openvino_ir import openvino; openvino(); import nncf;"
        "openvino().convert_model; print(sys.modules.get('openvino_telemetry'))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=root / "apps" / "sam_app",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().splitlines()[-1] == "None"
