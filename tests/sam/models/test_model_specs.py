"""An operator's own models from a YAML file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from segment_anything import SamPredictor

import weights
from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.model_specs import ModelSpecsError, known_models, read_model_specs
from lib.sam.models.registry import ALL_PROMPTS, MODELS, ModelSpec, Sam2Spec
from lib.sam.predictor import Predictor
from lib.sam.prompts import PromptError, Prompts
from lib.server.options import OptionError, ServerOptions

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
OWN = {"name": "own", "architecture": "vit_b", "checkpoint": "own.pth"}


def written(folder: Path, *entries: dict[str, object]) -> Path:
    file = folder / "models.yaml"
    file.write_text(yaml.safe_dump(list(entries)))
    return file


def test_the_documents_example_is_read(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "our_models.yaml").write_text(example)
    vit, sam2 = read_model_specs(tmp_path / "our_models.yaml")
    assert (vit.name, vit.preprocessing, vit.prompts) == ("liver_vit_b", "medsam", ("box",))
    assert (vit.license, vit.description) == ("for this hospital alone", "ViT-B, tuned on 400 liver CTs of our own")
    assert isinstance(sam2, Sam2Spec)
    assert (sam2.input_size, sam2.preprocessing, sam2.prompts, sam2.min_score) == (512, "sam2", ALL_PROMPTS, 0.8)


def test_the_documents_name_every_key_and_architecture() -> None:
    from lib.sam.models.model_specs import _Entry

    page = PAGE.read_text()
    keys = {key for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert set(_Entry.model_fields) <= keys
    assert all(f"`{spec.architecture}`" in page for spec in MODELS.values())


def test_what_is_left_open_is_as_for_the_architectures_own_model(tmp_path: Path) -> None:
    [spec] = read_model_specs(written(tmp_path, OWN))
    shipped = MODELS["sam_vit_b"]
    assert replace(spec, name=shipped.name, description=shipped.description, license=shipped.license) == replace(
        shipped, checkpoint="own.pth", url=None, md5=None
    )
    assert (spec.description, spec.license) == ("own (vit_b)", "not stated")
    assert list(known_models(None)) == list(MODELS)
    assert list(known_models(tmp_path / "models.yaml")) == [*MODELS, "own"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"archtecture": "vit_b"}, "model 1: there is no key 'archtecture'; there are name, architecture, checkpoint"),
        ({"architecture": "vit_x"}, "model 1, architecture: input should be 'tiny', "),
        ({"name": 3}, "model 1, name: input should be a valid string"),
        ({"name": "../etc"}, "model 1, name: string should match pattern"),
        ({"name": "sam_vit_b"}, "model 1, name: sam_vit_b is a model that comes with the app"),
        ({"name": "SAM"}, "model 1, name: SAM means the default model"),
        ({"name": "own_3d"}, "model 1, name: a name must not end with _3d"),
        ({"checkpoint": "../own.pth"}, "model 1, checkpoint: '../own.pth' must be the name of a file in the model fo"),
        ({"checkpoint": "C:\\own.pth"}, "model 1, checkpoint: 'C:\\\\own.pth' must be the name of a file"),
        ({"checkpoint": "own.onnx"}, "model 1, checkpoint: 'own.onnx' must end with .pth, .pt or .safetensors"),
        ({"input_size": "512"}, "model 1, input_size: input should be a valid integer"),
        ({"input_size": 500}, "model 1, input_size: must be a multiple of 16 from 64 to 2048"),
        ({"architecture": "sam2.1_hiera_t", "input_size": 528}, "model 1, input_size: must be a multiple of 32"),
        ({"architecture": "mobile_sam", "input_size": 512}, "model 1, input_size: mobile_sam has an input size of its"),
        ({"preprocessing": "sam2"}, "model 1, preprocessing: vit_b takes sam, medsam or lite_medsam"),
        ({"architecture": "sam2.1_hiera_t", "preprocessing": "sam"}, "model 1, preprocessing: sam2.1_hiera_t takes s"),
        ({"preprocessing": "medsam", "pixel_mean": [1, 2, 3]}, "model 1, pixel_mean: medsam has its own; only sam ta"),
        ({"pixel_std": [1, 2, 0]}, "model 1, pixel_std, 3: input should be greater than 0"),
        ({"prompts": ["mask"]}, "model 1, prompts: there must be point, box or both"),
        ({"prompts": ["circle"]}, "model 1, prompts, 1: input should be 'point', 'box' or 'mask'"),
        ({"min_score": 2}, "model 1, min_score: input should be less than or equal to 1"),
        ({"point_candidates": "yes"}, "model 1, point_candidates: input should be a valid boolean"),
    ],
)
def test_an_error_is_one_line_that_names_file_model_and_key(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    file = written(tmp_path, {**OWN, **change})
    with pytest.raises(ModelSpecsError) as caught:
        read_model_specs(file)
    assert str(caught.value).startswith(f"{file}: {words}")
    assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match=r"--conf model_specs: .*models\.yaml: model 1"):
        ServerOptions.from_conf({"model_specs": str(file)}, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: own\n", "it must be a list of models, each beginning with a dash"),
        ("", "it must be a list of models"),
        ("- {name: own, architecture: vit_b}\n", "model 1, checkpoint: field required"),
        ("- {name: own, name: other, architecture: vit_b, checkpoint: a.pth}\n", "'name' is there twice"),
        ("- {name: own, architecture: vit_b, checkpoint: a.pth}\n" * 2, "model 2, name: own is there already"),
        ("- [\n", "is no YAML: while parsing"),
        ("- !!python/object/apply:os.system [ls]\n", "is no YAML: could not determine a constructor"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    with pytest.raises(ModelSpecsError) as caught:
        read_model_specs(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelSpecsError, match=r"none\.yaml cannot be read: No such file"):
        read_model_specs(tmp_path / "none.yaml")


@pytest.mark.slow
def test_weights_takes_and_lists_a_checkpoint_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its file holds the optimiser's state beside the weights; the file's name says which model it is."""
    entry = {**OWN, "architecture": "lite_medsam", "prompts": ["box"], "license": "ours", "research_only": True}
    file, folder = written(tmp_path, entry), tmp_path / "model"
    [spec] = read_model_specs(file)
    torch.save({"model": spec.build().state_dict(), "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "own.pth")
    command = ["--folder", str(folder), "--model-specs", str(file)]
    assert weights.main([*command, "add", str(tmp_path / "own.pth")]) == 0
    assert "own: own.pth is in place" in capsys.readouterr().out
    assert weights.main([*command, "list"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^own +verified +[0-9,]+ +ours +research only +box$", shown, re.MULTILINE)
    assert f"  own.pth  {CheckpointStore(folder).load_into(spec.build(), spec)}\n" in shown
    assert weights.main(["--folder", str(folder), "add", str(tmp_path / "own.pth")]) == 1
    assert "no published checksum and another name" in capsys.readouterr().err


@pytest.fixture(scope="module")
def small_vit() -> tuple[ModelSpec, torch.nn.Module]:
    """A ViT-B for 256×256, with random weights and positions."""
    spec = ModelSpec("own", "", "ours", "vit_b", "own.pth", input_size=256)
    torch.manual_seed(5)
    module = spec.build().eval()
    for name, parameter in module.image_encoder.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return spec, module


def test_a_vit_of_another_input_size_gives_the_masks_of_sam_predictor(
    small_vit: tuple[ModelSpec, torch.nn.Module],
) -> None:
    spec, module = small_vit
    rows, columns = np.mgrid[:90, :120]
    image = np.repeat((127 + 90 * np.sin(rows / 15) * np.cos(columns / 20)).astype(np.uint8)[..., None], 3, axis=2)
    theirs = SamPredictor(module)
    theirs.set_image(image)
    point, label = np.array([[60, 40]]), np.array([1])
    masks, _, logits = theirs.predict(point, label, multimask_output=False)
    predictor = Predictor(spec, module, checkpoint_sha256="random", cache=EmbeddingCache(1 << 26))
    embedding = predictor.encode(image)
    [first] = predictor.decode(embedding, [Prompts(points=point, labels=label)])
    assert first.low_res_logits.shape == (1, 64, 64)
    assert np.array_equal(first.masks, masks)
    assert 0 < masks.mean() < 1
    refined, _, _ = theirs.predict(point, label, mask_input=logits, multimask_output=False)
    again = Prompts(points=point, labels=label, mask_logits=first.low_res_logits[0])
    assert np.array_equal(predictor.decode(embedding, [again])[0].masks, refined)
    grid = predictor.logits_grid((90, 120))
    assert grid.shape == (48, 64)
    with pytest.raises(PromptError, match=r"mask logits for own are 64×64, not \(256, 256\)"):
        predictor.decode(embedding, [Prompts(mask_logits=np.zeros((256, 256)))])


def test_mean_and_deviation_of_the_file_are_used(small_vit: tuple[ModelSpec, torch.nn.Module]) -> None:
    spec, module = small_vit
    own = replace(spec, pixel_mean=(10.0, 20.0, 30.0), pixel_std=(2.0, 4.0, 5.0))
    image = np.full((256, 256, 3), 50, np.uint8)
    shown = Predictor(own, module, checkpoint_sha256="random", cache=EmbeddingCache(1)).model_input(image)
    np.testing.assert_allclose(shown[0, :, 7, 7].numpy(), [20, 7.5, 4])


@pytest.mark.parametrize("change", [{"preprocessing": "medsam"}, {"pixel_mean": (1.0, 2.0, 3.0)}, {"input_size": 512}])
def test_what_changes_an_embedding_is_in_its_key(
    small_vit: tuple[ModelSpec, torch.nn.Module], change: dict[str, object]
) -> None:
    """The file can be changed while embeddings of the same name and checkpoint are on disk."""
    spec, module = small_vit
    image = np.zeros((4, 4, 3), np.uint8)
    keys = {
        Predictor(one, module, checkpoint_sha256="random", cache=EmbeddingCache(1))._key(image)
        for one in (spec, replace(spec, **change))  # type: ignore[arg-type]
    }
    assert len(keys) == 2
