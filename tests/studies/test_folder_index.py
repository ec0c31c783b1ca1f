"""The list of a folder's images and labels as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from monailabel.datastore.local import ImageLabelModel

from lib.studies.folder_index import file_entry, new_index, read_index, write_index


@pytest.mark.parametrize("replaced", ["", 'original/müller "1".nii'])
def test_what_is_written_is_read_again(tmp_path: Path, replaced: str):
    index = new_index(tmp_path, tmp_path)
    label = file_entry("müller.nii.gz", ".nii.gz", {"params": {"scores": [1e300], "slice": None}, "name": 'a "b"\n'})
    index.objects["müller"] = ImageLabelModel(image=file_entry("müller.png", ".png", {}), labels={"pre": label})
    write_index(index, tmp_path / "list.json", replaced)
    again, problems = read_index(tmp_path / "list.json", tmp_path)
    assert problems == [] and again._replaced == replaced
    assert again.model_dump() == index.model_dump()
