"""Convert an image to a model's input, and low-resolution logits to masks of the image's size."""

from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.utils.transforms import ResizeLongestSide

from lib.sam.models.registry import ModelSpec

ImageSize = tuple[int, int]
"""``(height, width)`` in pixels."""


class Preprocessor(Protocol):
    """Preprocessing of one model. Sizes are ``(height, width)``; coordinates are XY.

    Attributes:
        input_size: S, the side of the model's square input in pixels.
    """

    input_size: int

    def image(self, image: np.ndarray) -> torch.Tensor:
        """Convert an image, ``(H, W, 3)`` uint8 RGB, to the model's input, ``(1, 3, S, S)`` float32."""

    def coordinates(self, xy: np.ndarray, size: ImageSize) -> np.ndarray:
        """Convert ``(..., 2)`` pixels of an image of this size to pixels of the model's input."""

    def masks(self, low_res_logits: torch.Tensor, size: ImageSize) -> torch.Tensor:
        """Convert ``(B, C, h, w)`` logits to ``(B, C, H, W)`` bool masks of an image of this size."""


class SamPreprocessor:
    """SAM's preprocessing: longest side scaled to the input size, normalised, zero padding at the right and bottom.

    The steps and their order are those of ``segment_anything.SamPredictor`` and ``Sam.preprocess`` /
    ``Sam.postprocess_masks``, so that the results are equal.

    Args:
        input_size: S, the side of the model's square input in pixels.
        pixel_mean: ``(3, 1, 1)`` in units of 0 to 255.
        pixel_std: Likewise.
        image_size: The side at which the image itself is given, if another one: EfficientViT-SAM's prompts are in
            pixels of 1024 x 1024, its images of 512 x 512.
    """

    def __init__(
        self, input_size: int, pixel_mean: torch.Tensor, pixel_std: torch.Tensor, image_size: int | None = None
    ) -> None:
        self.input_size = input_size
        self._mean = pixel_mean.detach().cpu()
        self._std = pixel_std.detach().cpu()
        self._resize = ResizeLongestSide(input_size)
        self._image_size = image_size or input_size

    def image(self, image: np.ndarray) -> torch.Tensor:
        """See :class:`Preprocessor`."""
        resized = ResizeLongestSide(self._image_size).apply_image(image)
        tensor = torch.as_tensor(np.ascontiguousarray(resized)).permute(2, 0, 1)[None]
        tensor = (tensor - self._mean) / self._std
        height, width = tensor.shape[-2:]
        return F.pad(tensor, (0, self._image_size - width, 0, self._image_size - height))

    def coordinates(self, xy: np.ndarray, size: ImageSize) -> np.ndarray:
        """See :class:`Preprocessor`."""
        return np.asarray(self._resize.apply_coords(xy, size))

    def masks(self, low_res_logits: torch.Tensor, size: ImageSize) -> torch.Tensor:
        """See :class:`Preprocessor`."""
        side = self.input_size
        height, width = self._resize.get_preprocess_shape(*size, side)
        logits = F.interpolate(low_res_logits, (side, side), mode="bilinear", align_corners=False)
        logits = F.interpolate(logits[..., :height, :width], size, mode="bilinear", align_corners=False)
        return logits > 0


class _StretchingPreprocessor:
    """Preprocessing that stretches the image to the model's square input of ``input_size`` pixels a side."""

    def __init__(self, input_size: int) -> None:
        self.input_size = input_size

    def coordinates(self, xy: np.ndarray, size: ImageSize) -> np.ndarray:
        """See :class:`Preprocessor`."""
        height, width = size
        return np.asarray(xy / np.array([width, height]) * self.input_size)


class MedSamPreprocessor(_StretchingPreprocessor):
    """MedSAM's preprocessing: image stretched to the square input, its minimum and maximum scaled to 0 and 1.

    Source: MedSAM (Ma et al. 2024, doi:10.1038/s41467-024-44824-z), ``MedSAM_Inference.py``.
    """

    def image(self, image: np.ndarray) -> torch.Tensor:
        """See :class:`Preprocessor`."""
        from skimage.transform import resize

        side = self.input_size
        stretched = resize(image, (side, side), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
        tensor = torch.as_tensor(stretched).permute(2, 0, 1)[None].float()
        low, high = tensor.min(), tensor.max()
        return (tensor - low) / torch.clip(high - low, min=1e-8)

    def masks(self, low_res_logits: torch.Tensor, size: ImageSize) -> torch.Tensor:
        """See :class:`Preprocessor`."""
        probabilities = torch.sigmoid(low_res_logits)
        return F.interpolate(probabilities, size, mode="bilinear", align_corners=False) > 0.5


class LiteMedSamPreprocessor:
    """LiteMedSAM's preprocessing: longest side scaled to the input size, minimum and maximum to 0 and 1, zero padding.

    The steps are those of the authors' ``CVPR24_LiteMedSAM_infer.py``: areas are averaged as by OpenCV's
    ``INTER_AREA``, except that images smaller than the input are enlarged linearly.

    Args:
        input_size: S, the side of the model's square input in pixels.
    """

    def __init__(self, input_size: int) -> None:
        self.input_size = input_size

    def image(self, image: np.ndarray) -> torch.Tensor:
        """See :class:`Preprocessor`."""
        height, width = self._scaled(image.shape[:2])
        tensor = torch.as_tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        if max(image.shape[:2]) > self.input_size:
            rows, columns = _area_weights(image.shape[0], height), _area_weights(image.shape[1], width)
            scaled = rows @ tensor @ columns.T
        else:
            scaled = F.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)
        scaled = scaled.round()
        low, high = scaled.min(), scaled.max()
        normalised = (scaled - low) / torch.clip(high - low, min=1e-8)
        return F.pad(normalised, (0, self.input_size - width, 0, self.input_size - height))

    def _scaled(self, size: ImageSize) -> ImageSize:
        """Return the image's size in the model's input."""
        height, width = ResizeLongestSide.get_preprocess_shape(*size, self.input_size)
        return max(1, height), max(1, width)

    def coordinates(self, xy: np.ndarray, size: ImageSize) -> np.ndarray:
        """See :class:`Preprocessor`."""
        scaled: np.ndarray = xy * (self.input_size / max(size))
        return scaled

    def masks(self, low_res_logits: torch.Tensor, size: ImageSize) -> torch.Tensor:
        """See :class:`Preprocessor`; LiteMedSAM's own logits have the input's size."""
        height, width = self._scaled(size)
        side = (self.input_size, self.input_size)
        if low_res_logits.shape[-2:] != side:
            low_res_logits = F.interpolate(low_res_logits, side, mode="bilinear", align_corners=False)
        logits = low_res_logits[..., :height, :width]
        return F.interpolate(logits, size, mode="bilinear", align_corners=False) > 0


def _area_weights(size: int, scaled: int) -> torch.Tensor:
    """Return ``(scaled, size)`` float32: how much of each scaled pixel each pixel covers, rows summing to 1."""
    ends = torch.arange(scaled + 1, dtype=torch.float64) * (size / scaled)
    pixels = torch.arange(size, dtype=torch.float64)
    covered = torch.minimum(ends[1:, None], pixels + 1) - torch.maximum(ends[:-1, None], pixels)
    return (covered.clip(min=0) / (size / scaled)).float()


class Sam2Preprocessor(_StretchingPreprocessor):
    """SAM 2's preprocessing: image stretched to the square input, normalised as for ImageNet.

    The steps are those of ``sam2.utils.transforms.SAM2Transforms`` (Ravi et al. 2024, arXiv:2408.00714), so that the
    results are equal; its optional filling of holes, off by default, is not implemented.
    """

    _MEAN = (0.485, 0.456, 0.406)
    _STD = (0.229, 0.224, 0.225)

    def image(self, image: np.ndarray) -> torch.Tensor:
        """See :class:`Preprocessor`."""
        tensor = torch.as_tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        side = (self.input_size, self.input_size)
        stretched = F.interpolate(tensor, side, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self._MEAN, self._STD))
        return (stretched - mean) / std

    def masks(self, low_res_logits: torch.Tensor, size: ImageSize) -> torch.Tensor:
        """See :class:`Preprocessor`."""
        return F.interpolate(low_res_logits, size, mode="bilinear", align_corners=False) > 0


def make_preprocessor(spec: ModelSpec, module: Any) -> Preprocessor:
    """Create a model's preprocessor; what its spec leaves open is as its SAM or SAM 2 module says."""
    if spec.preprocessing == "sam2":
        return Sam2Preprocessor(int(module.image_size))
    input_size = int(module.image_encoder.img_size)
    if spec.preprocessing == "medsam":
        return MedSamPreprocessor(input_size)
    if spec.preprocessing == "lite_medsam":
        return LiteMedSamPreprocessor(input_size)
    mean, std = (
        own if chosen is None else torch.tensor(chosen).view(3, 1, 1)
        for chosen, own in ((spec.pixel_mean, module.pixel_mean), (spec.pixel_std, module.pixel_std))
    )
    return SamPreprocessor(int(module.prompt_encoder.input_image_size[0]), mean, std, image_size=input_size)
