import pytest

from lib.sam.registry import DEFAULT_MODEL, MODELS, UnknownModelError, get_spec


def test_models_of_the_readme_are_there():
    assert list(MODELS) == ["sam_tiny", "sam_vit_b", "sam_vit_l", "sam_vit_h", "medsam_vit_b"]
    assert MODELS[DEFAULT_MODEL].bundled


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(UnknownModelError, match="'sam_vit_x'.*: sam_tiny, sam_vit_b, sam_vit_l, sam_vit_h"):
        get_spec("sam_vit_x")


@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_official_checkpoints_have_a_url_and_a_checksum(name):
    spec = MODELS[name]
    assert spec.url == f"https://dl.fbaipublicfiles.com/segment_anything/{spec.checkpoint}"
    assert spec.md5 is not None and len(spec.md5) == 32
