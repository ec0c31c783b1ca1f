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

    @property
    def is_sam2(self) -> bool:
        """Whether it is a SAM 2: a model with a memory, by which it follows objects through volumes."""
        return self.architecture.startswith("sam2")

    def build(self) -> nn.Module:
        """Build the module without its weights.

        It has ``image_encoder``, ``prompt_encoder`` and ``mask_decoder`` as in SAM, or is SAM 2's ``SAM2Base``.
        """
        if self.architecture == "tiny":
            from lib.sam.models.tiny import SamTiny

            return SamTiny()
        if self.is_sam2:
            from lib.sam.models.sam2_model import build_sam2

            return build_sam2(self.architecture)
        from segment_anything import sam_model_registry

        builder: Callable[[], nn.Module] = sam_model_registry[self.architecture]
        return builder()


def _sam2(size: str, config: Architecture, megabytes: str) -> ModelSpec:
    """Return the spec of a SAM 2.1, with names, files and addresses from facebookresearch/sam2's README.

    It publishes no checksums. ``min_score`` is that of its ``SAM2AutomaticMaskGenerator``.
    """
    file = f"sam2.1_hiera_{size}.pt"
    return ModelSpec(
        name=f"sam2_hiera_{size}",
        description=f"Segment Anything 2.1, Hiera-{size.replace('_plus', '+').title()} (Meta, {megabytes})",
        architecture=config,
        checkpoint=file,
        preprocessing="sam2",
        url=_META_SAM2 + file,
        min_score=0.8,
    )


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
    ModelSpec(
        name="sam_vit_b",
        description="Segment Anything, ViT-B (Meta, 375 MB)",
        architecture="vit_b",
        checkpoint="sam_vit_b_01ec64.pth",
        url=_META + "sam_vit_b_01ec64.pth",
        md5="01ec64d29a2fca3f0661936605ae66f8",
    ),
    ModelSpec(
        name="sam_vit_l",
        description="Segment Anything, ViT-L (Meta, 1.25 GB)",
        architecture="vit_l",
        checkpoint="sam_vit_l_0b3195.pth",
        url=_META + "sam_vit_l_0b3195.pth",
        md5="0b3195507c641ddb6910d2bb5adee89c",
    ),
    ModelSpec(
        name="sam_vit_h",
        description="Segment Anything, ViT-H (Meta, 2.6 GB)",
        architecture="vit_h",
        checkpoint="sam_vit_h_4b8939.pth",
        url=_META + "sam_vit_h_4b8939.pth",
        md5="4b8939a88964f0f4ff5f5b2642c598a6",
    ),
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
