"""The models that the engine supports: architecture, checkpoint and preprocessing of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

Architecture = Literal[
    "tiny", "vit_b", "vit_l", "vit_h", "sam2.1_hiera_t", "sam2.1_hiera_s", "sam2.1_hiera_b+", "sam2.1_hiera_l"
]
Preprocessing = Literal["sam", "medsam", "sam2"]

_SAM: dict[str, Architecture] = {"b": "vit_b", "l": "vit_l", "h": "vit_h"}
_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_META_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"


class UnknownModelError(ValueError):
    """There is no model with this name; the message lists the known ones."""


@dataclass(frozen=True)
class ModelSpec:
    """One model.

    Args:
        name: The name for users, e.g. ``sam_vit_b``.
        description: One line for lists and clients.
        architecture: The module's family: ``tiny``, segment_anything's ``vit_b``, ``vit_l``, ``vit_h``, or the name of
            a configuration of SAM 2.1 in the ``sam2`` package, see :mod:`lib.sam.models.sam2_model`.
        checkpoint: File name of the weights inside the model folder.
        preprocessing: ``sam`` (longest side to the input size, normalised by the module's mean and standard deviation,
            zero padding; Kirillov et al. 2023, arXiv:2304.02643), ``medsam`` (stretched to the input size, minimum
            and maximum to 0 and 1; Ma et al. 2024, doi:10.1038/s41467-024-44824-z) or ``sam2`` (stretched to the
            input size, normalised as for ImageNet; Ravi et al. 2024, arXiv:2408.00714).
        url: The publisher's address of the file, or None if it cannot be downloaded by this app.
        md5: The publisher's MD5 sum in hexadecimal, or None.
        bundled: Whether the checkpoint is shipped with the app.
        point_candidates: Whether a single point, being ambiguous, returns the best-scored of three candidates, as SAM's
            authors advise (section 3 of the paper), or the model's single mask.
        min_score: In automatic segmentation, the smallest predicted IoU of a mask; the default is that of SAM's own
            automatic mask generator.
        min_stability: Likewise, the smallest IoU between the masks thresholded at logit +1 and at -1.
    """

    name: str
    description: str
    architecture: Architecture
    checkpoint: str
    preprocessing: Preprocessing = "sam"
    url: str | None = None
    md5: str | None = None
    bundled: bool = False
    point_candidates: bool = True
    min_score: float = 0.88
    min_stability: float = 0.95

    def build(self) -> nn.Module:
        """Build the module without its weights.

        It has ``image_encoder``, ``prompt_encoder`` and ``mask_decoder`` as in SAM.
        """
        if self.architecture == "tiny":
            from lib.sam.models.tiny import SamTiny

            return SamTiny()
        from segment_anything import sam_model_registry

        builder: Callable[[], nn.Module] = sam_model_registry[self.architecture]
        return builder()


@dataclass(frozen=True)
class Sam2Spec(ModelSpec):
    """A SAM 2.1: it has a memory, by which it follows objects through volumes.

    Names, files and addresses are those of facebookresearch/sam2's README, which publishes no checksums; ``min_score``
    is that of its ``SAM2AutomaticMaskGenerator``.
    """

    preprocessing: Preprocessing = "sam2"
    min_score: float = 0.8

    def build(self) -> nn.Module:
        """Build SAM 2's ``SAM2Base`` without its weights."""
        from lib.sam.models.sam2_model import build_sam2

        return build_sam2(self.architecture)


def _sam(size: str, megabytes: str, md5: str) -> ModelSpec:
    """Return the spec of one of the first SAMs; its file's name contains the start of the file's MD5 sum."""
    name, file = f"sam_vit_{size}", f"sam_vit_{size}_{md5[:6]}.pth"
    description = f"Segment Anything, ViT-{size.upper()} (Meta, {megabytes})"
    return ModelSpec(name, description, _SAM[size], file, url=_META + file, md5=md5)


def _sam2(size: str, config: Architecture, megabytes: str) -> Sam2Spec:
    file = f"sam2.1_hiera_{size}.pt"
    description = f"Segment Anything 2.1, Hiera-{size.replace('_plus', '+').title()} (Meta, {megabytes})"
    return Sam2Spec(f"sam2_hiera_{size}", description, config, file, url=_META_SAM2 + file)


_SPECS = (
    ModelSpec(
        name="sam_tiny",
        description="Small bundled model of SAM's pattern, trained on synthetic images: for trying things out",
        architecture="tiny",
        checkpoint="sam_tiny.safetensors",
        bundled=True,
        point_candidates=False,  # its single mask was better in measurements
        min_score=0.2,  # it rates masks of a single point low; their stability says more
        min_stability=0.85,
    ),
    _sam("b", "375 MB", "01ec64d29a2fca3f0661936605ae66f8"),
    _sam("l", "1.25 GB", "0b3195507c641ddb6910d2bb5adee89c"),
    _sam("h", "2.6 GB", "4b8939a88964f0f4ff5f5b2642c598a6"),
    ModelSpec(
        name="medsam_vit_b",
        description="MedSAM, ViT-B tuned on medical images, for box prompts (375 MB; copy it in by hand)",
        architecture="vit_b",
        checkpoint="medsam_vit_b.pth",
        preprocessing="medsam",
    ),
    _sam2("tiny", "sam2.1_hiera_t", "156 MB"),
    _sam2("small", "sam2.1_hiera_s", "184 MB"),
    _sam2("base_plus", "sam2.1_hiera_b+", "324 MB"),
    _sam2("large", "sam2.1_hiera_l", "898 MB"),
)

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}
DEFAULT_MODEL = "sam_tiny"


def get_spec(name: str) -> ModelSpec:
    """Return the spec of a model by its name.

    Raises:
        UnknownModelError: If there is no such model; the message lists the known names.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise UnknownModelError(f"there is no model {name!r}; the models are: {', '.join(MODELS)}") from None
