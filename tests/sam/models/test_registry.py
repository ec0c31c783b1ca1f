import pytest

from lib.sam.models.registry import DEFAULT_MODEL, MODELS, UnknownModelError, get_spec


def test_models_of_the_readme_are_there():
    assert list(MODELS) == [
        *("sam_tiny", "sam_vit_b", "sam_vit_l", "sam_vit_h", "mobile_sam"),
        *("efficientvit_sam_l0", "efficientvit_sam_l1", "litemedsam", "medsam_vit_b"),
        *("sam2_hiera_tiny", "sam2_hiera_small", "sam2_hiera_base_plus", "sam2_hiera_large", "medsam2"),
    ]
    assert MODELS[DEFAULT_MODEL].bundled


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(UnknownModelError, match=r"'sam_vit_x'.*: sam_tiny, sam_vit_b, sam_vit_l, sam_vit_h"):
        get_spec("sam_vit_x")


@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_official_checkpoints_have_a_url_and_a_checksum(name):
    spec = MODELS[name]
    assert spec.url == f"https://dl.fbaipublicfiles.com/segment_anything/{spec.checkpoint}"
    assert spec.md5 is not None and len(spec.md5) == 32


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_sam2_checkpoints_are_those_of_its_readme(size):
    """The ``sam2`` package names file and configuration of each model, too."""
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    spec = MODELS[f"sam2_hiera_{size}"]
    hub_name = f"facebook/sam2.1-hiera-{size.replace('_', '-')}"
    config = f"configs/sam2.1/{spec.architecture}.yaml"
    assert (config, spec.checkpoint) == HF_MODEL_ID_TO_FILENAMES[hub_name]
    assert spec.url == f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/{spec.checkpoint}"


def test_only_a_licence_for_research_alone_says_so():
    assert [name for name, spec in MODELS.items() if spec.research_only] == ["medsam2"]
