import nibabel
import numpy as np
import pytest

from lib.imaging.image import CorruptImageError
from lib.imaging.readers import read_image
from lib.transforms.load import SentLabeld
from lib.transforms.request import SegmentRequest, Source


@pytest.mark.parametrize(
    ("suffix", "content", "fits"),
    [
        (".nii", nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)).to_bytes(), True),
        (".nii", nibabel.Nifti1Image(np.ones((4, 5, 7), np.uint8), np.eye(4)).to_bytes(), False),
        (".nii", nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.diag([1, 1, 3, 1.0])).to_bytes(), False),
        (".bin", bytes(4 * 5 * 6), True),
        (".bin", bytes(4 * 5), False),
    ],
)
def test_a_sent_label_must_lie_on_the_image(tmp_path, suffix, content, fits):
    (tmp_path / "image.nii").write_bytes(nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)).to_bytes())
    label = tmp_path / f"label{suffix}"
    label.write_bytes(content)
    request = SegmentRequest(Source.VIEWER, "sam_tiny", "image", object_name="a name", sent_label=str(label))
    data = {"image": read_image(tmp_path / "image.nii"), "request": request}
    if fits:
        assert SentLabeld(read_image)(data) == data
    else:
        with pytest.raises(CorruptImageError, match="4 x 5 x 6"):
            SentLabeld(read_image)(data)


def test_without_a_label_there_is_nothing_to_check():
    data = {"request": SegmentRequest(Source.VIEWER, "sam_tiny", "image", object_name="a name")}
    assert SentLabeld(read_image)(data) == data
