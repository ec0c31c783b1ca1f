"""The segments of a DICOM Segmentation: the Segment Sequence of PS3.3 C.8.20.4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydicom import Dataset

from lib.base.plain_text import as_plain, shortened
from lib.imaging.palette import PALETTE, dicom_cielab

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

    from lib.imaging.labels.anatomy_codes import SegmentedProperty

MAX_SEGMENTS = len(PALETTE) - 1
"""Number of colours, and of uint8 values other than 0."""
_MAX_LABEL_LENGTH = 64
_ALGORITHM_FAMILY = ("123110", "DCM", "Artificial Intelligence")


def check_segment_labels(segment_labels: Sequence[str], labels: np.ndarray) -> None:
    """Check that a Segmentation can have segments with these names, and that each of its labels has one.

    Raises:
        ValueError: No names, too few or too many of them, or one that is no valid Segment Label (0062,0005).
    """
    if not 1 <= len(segment_labels) <= MAX_SEGMENTS:
        raise ValueError(f"a Segmentation needs names of 1 to {MAX_SEGMENTS} segments, not {len(segment_labels)}")
    if any(label != segment_label(label) or not label for label in segment_labels):
        raise ValueError("a segment's label has 1 to 64 characters, no backslash and no control character")
    if labels.max() > len(segment_labels):
        raise ValueError(f"there are objects up to {labels.max()}, but {len(segment_labels)} names")


def segment_label(name: str) -> str:
    """Convert a name to a valid Segment Label (0062,0005; LO, PS3.5 6.2); empty if no valid character remains."""
    return shortened(as_plain(name.replace("\\", "")), _MAX_LABEL_LENGTH)


def segment_descriptions(
    segment_labels: Sequence[str],
    algorithm_name: str | Sequence[str],
    algorithm_version: str,
    is_automatic: bool = False,
) -> list[SegmentDescription]:
    """Return one Segment Sequence item per object, with the colour used in the views and the codes for its label.

    Args:
        segment_labels: The objects' names: ``segment_labels[n - 1]`` is the name of segment ``n``.
        algorithm_name: Segment Algorithm Name (0062,0009), at most 64 characters; or one for each object.
        algorithm_version: Version of the model.
        is_automatic: Made without prompts (AUTOMATIC) or from a user's prompts (SEMIAUTOMATIC).
    """
    # Here, as they take long to import: highdicom and pydicom's dictionaries of codes.
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from highdicom.sr import CodedConcept

    from lib.imaging.labels.anatomy_codes import property_for_label

    kind = SegmentAlgorithmTypeValues.AUTOMATIC if is_automatic else SegmentAlgorithmTypeValues.SEMIAUTOMATIC
    names = [algorithm_name] * len(segment_labels) if isinstance(algorithm_name, str) else algorithm_name
    descriptions = []
    for number, (label, name) in enumerate(zip(segment_labels, names, strict=True), start=1):
        found = property_for_label(label)
        description = SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=found.category,
            segmented_property_type=found.kind,
            algorithm_type=kind,
            algorithm_identification=AlgorithmIdentificationSequence(
                name=name,
                family=CodedConcept(*_ALGORITHM_FAMILY),
                version=algorithm_version,
            ),
            anatomic_regions=[found.region] if found.region else None,
        )
        _add_side(description, found)
        description.RecommendedDisplayCIELabValue = dicom_cielab(PALETTE[number])
        descriptions.append(description)
    return descriptions


def _add_side(description: Dataset, found: SegmentedProperty) -> None:
    """Add left or right to the anatomic region, else to the segmented property type: PS3.3 C.8.20.4."""
    if found.side is None:
        return
    from highdicom.sr import CodedConcept

    modifier = [CodedConcept.from_code(found.side)]
    if found.region is not None:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = modifier
    else:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifier
