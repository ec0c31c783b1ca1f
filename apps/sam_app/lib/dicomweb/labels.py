"""Fixes of what MONAI Label 0.8.5 does with the labels of a DICOMweb server's series.

- It converts a final label to DICOM SEG with dcmqi: see :mod:`lib.dicomweb.dicom_seg` for the faults of that.
- It counts a label as stored even if the server refused it, or is no DICOMweb server and returned a web page.
- A label is requested by its image's id. It searches the server for that id, which is the series itself, reads the
  series as if it were a segmentation, and returns a 500. Here the result is the label stored locally or, if there is
  none, the server's newest segmentation of the series, whoever made it.
- It returns a label unchanged after its series has changed, even with another number of slices. Here the label is
  checked against the series: see :meth:`DicomWebLabels.get_label_uri`.
- It needs a NIfTI file of the series to read raw labels (``.bin``).
"""

import tempfile
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom import Dataset

from lib.dicomweb.connection import DicomWebError
from lib.dicomweb.dicom_seg import segmentation_of_labels
from lib.imaging.dicom.data_sets import write
from lib.imaging.dicom.header_values import value_of
from lib.imaging.dicom.reader import SeriesGrid, read_series_grid
from lib.imaging.image import CorruptImageError, ImageChangedError, ImageError
from lib.imaging.labels.label_grid import labels_on_grid
from lib.imaging.labels.label_writers import write_label_volume
from lib.imaging.labels.series_segmentation import OverlappingSegmentsError, labels_from_segmentation
from lib.imaging.readers import read_image
from lib.studies.local_store import LocalStore

_NOT_CONFIRMED = "the DICOMweb server did not confirm that it has stored the segmentation (PS3.18 10.5.3)"
_AS_STORED = (("application/dicom", "*"),)


class DicomWebLabels(LocalStore, DICOMWebDatastore):
    """Base class of the DICOMweb datastore: the labels of its series.

    A final label is stored here unchanged, and on the server as a DICOM Segmentation in the study of its series.
    """

    def __init__(self, place: Path, *, exclusive: bool = False) -> None:
        super().__init__(place, place, exclusive=exclusive)
        self._fetching_label = Lock()

    def series_folder(self, series: str) -> str:
        """Return a folder with the DICOM files of a series."""
        raise NotImplementedError

    def register_image(self, series: str) -> str:
        """Add a series to MONAI Label's list, which labels of it require, and return the series' path there."""
        raise NotImplementedError

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None, label_id: str = ""
    ) -> str:
        """Store a label locally, and a final one on the server as well.

        Args:
            image_id: The Series Instance UID.
            label_filename: The labels, on the voxels of the series; ``.bin``: raw uint8 voxels, ``i`` fastest.
            label_tag: The label's tag.
            label_info: Further information about it; the names of the labels are in its ``label_info``.
            label_id: Not used; a label's id is the image's.

        Returns:
            The label's id.

        Raises:
            ImageError: If it does not lie on the series, or no Segmentation can be made of it; then it is not stored.
            DicomWebError: If the server does not accept it; then it is not stored either.
        """
        self.register_image(image_id)  # upstream stores labels only of images in its list
        folder = self.series_folder(image_id)
        info = {**(label_info or {}), "version": _version(folder)}
        with tempfile.TemporaryDirectory() as scratch:
            label = Path(label_filename)
            grid = read_series_grid(folder)
            if label.suffix == ".bin":
                label = _from_raw(label, grid, Path(scratch))
            if label_tag == DefaultLabelTag.FINAL:
                by = {"model": info.get("model"), "reviewer": info.get("reviewer")}
                made = segmentation_of_labels(grid, label, info.get("label_info"), **by)
                self._store(made)
                info |= {
                    "SeriesInstanceUID": str(made.SeriesInstanceUID),
                    "StudyInstanceUID": str(made.StudyInstanceUID),
                    "PatientID": str(made.PatientID),
                    "Modality": str(made.Modality),
                }
            elif label.suffix != ".json":
                labels_on_grid(read_image(label), grid.affine, grid.shape)
            self.keep_label(image_id, label, label_tag, info)
        return image_id

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Return the path of a label, fetched from the server if need be.

        Args:
            label_id: The image's id; with ``image_id``: the Series Instance UID of a segmentation.
            label_tag: The label's tag.
            image_id: The image's id, if ``label_id`` names a certain segmentation.

        Returns:
            The path; empty if there is no such label. A final label that does not lie on the present series is fetched
            from the server again, and placed by the instances that it refers to.

        Raises:
            ImageChangedError: If a label with another tag does not lie on the present series; also a final one that
                the server does not have.
            UnsupportedImageError: If the server's segmentation cannot be placed on the series.
            DicomWebError: If the server does not respond.
        """
        image = image_id or label_id
        stored = self._stored_label(image, label_tag)
        if stored and self._lies_on_series(image, label_tag, stored):
            return stored
        with self._fetching_label:
            is_final = label_tag == DefaultLabelTag.FINAL
            series = (label_id if image_id else self._newest_segmentation(image)) if is_final else None
            if series:
                self._fetch_label(series, image)
            elif stored:
                raise ImageChangedError("the series has changed since this label was saved: the label no longer fits")
        return self._stored_label(image, label_tag)

    def _lies_on_series(self, image: str, label_tag: str, label: str) -> bool:
        """Return whether a stored label lies on the voxels of the present series."""
        folder = self.series_folder(image)
        if self.get_label_info(image, label_tag).get("version") == _version(folder):
            return True
        grid = read_series_grid(folder)
        try:
            labels_on_grid(read_image(label), grid.affine, grid.shape)
        except ImageError:
            return False
        return True

    def _stored_label(self, image: str, label_tag: str) -> str:
        return LocalDatastore.get_label_uri(self, image, label_tag)

    def _store(self, segmentation: Dataset) -> None:
        """Store a segmentation on the server (STOW-RS, PS3.18 10.5)."""
        try:
            answer = self._client.store_instances([segmentation])
        except (ValueError, TypeError, KeyError, AttributeError, SyntaxError):  # SyntaxError: invalid XML
            raise DicomWebError(_NOT_CONFIRMED) from None
        if value_of(answer, "FailedSOPSequence"):
            raise DicomWebError("the DICOMweb server refused the segmentation")
        stored = [
            value_of(item, "ReferencedSOPInstanceUID") for item in value_of(answer, "ReferencedSOPSequence") or ()
        ]
        if segmentation.SOPInstanceUID not in stored:
            raise DicomWebError(_NOT_CONFIRMED)

    def _newest_segmentation(self, image: str) -> str | None:
        """Return the UID of the series of an image's newest segmentation on the server; None if there is none."""
        study = str(read_series_grid(self.series_folder(image)).sources[0].StudyInstanceUID)
        found = self._client.search_for_series(study_instance_uid=study, search_filters={"Modality": "SEG"})
        made = []
        for series in (str(Dataset.from_json(item).SeriesInstanceUID) for item in found):
            for instance in map(Dataset.from_json, self._client.retrieve_series_metadata(study, series)):
                sources = value_of(instance, "ReferencedSeriesSequence") or []
                if any(value_of(source, "SeriesInstanceUID") == image for source in sources):
                    made.append((f"{value_of(instance, 'ContentDate')} {value_of(instance, 'ContentTime')}", series))
        return max(made)[1] if made else None

    def _fetch_label(self, series: str, image: str) -> None:
        """Fetch a segmentation from the server and store it as the image's final label."""
        self.register_image(image)
        folder = self.series_folder(image)
        grid = read_series_grid(folder)
        study = str(grid.sources[0].StudyInstanceUID)
        segmentation = self._client.retrieve_series(study, series, media_types=_AS_STORED)[-1]
        with tempfile.TemporaryDirectory() as scratch:
            try:
                label = _write(labels_from_segmentation(segmentation, grid.sources), grid, Path(scratch))
            except OverlappingSegmentsError:  # no label map can hold it: it is kept as it is
                label = Path(scratch, "label.dcm")
                write(segmentation, label)
            names = [
                {"name": str(segment.SegmentLabel), "idx": int(segment.SegmentNumber)}
                for segment in segmentation.SegmentSequence
            ]
            info = {"label_info": names, **self._dicom_info(series), "version": _version(folder)}
            self.keep_label(image, label, DefaultLabelTag.FINAL, info)


def _version(series_folder: str) -> str:
    """Return the name of a series' content: see :class:`lib.dicomweb.series.SeriesFolders`."""
    return Path(series_folder).name


def _from_raw(raw: Path, grid: SeriesGrid, folder: Path) -> Path:
    """Write raw voxels as a label volume file and return its path."""
    voxels = np.fromfile(raw, dtype=np.uint8)
    if voxels.size != np.prod(grid.shape):
        expected = " x ".join(map(str, grid.shape[::-1]))
        raise CorruptImageError(f"the raw label has {voxels.size} voxels, the series {expected}")
    return _write(voxels.reshape(grid.shape), grid, folder)


def _write(labels: np.ndarray, grid: SeriesGrid, folder: Path) -> Path:
    path = folder / "label.nii.gz"
    dtype = "uint8" if labels.max() < 256 else "uint16"
    write_label_volume(labels, grid.file_affine, path, dtype=dtype)
    return path
