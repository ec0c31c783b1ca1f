"""Which of the files that a client sent are a session's image: an archive's content, or one of several series."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import HTTPException, UploadFile

from lib.imaging.dicom.series_files import FoundSeries, series_in
from lib.imaging.formats.sniff import HEAD_LENGTH
from lib.imaging.formats.zip_archive import is_zip, unpack_image
from lib.imaging.image import UnsupportedImageError
from lib.server.http.forms import MAX_SESSION_FILES, not_empty
from lib.server.upstream.arguments import plain_name
from lib.server.upstream.session_store import DESCRIPTION


class SeveralSeriesError(ValueError):
    """The files are of several DICOM series, of which one can be an image."""

    def __init__(self, series: Sequence[FoundSeries]) -> None:
        super().__init__(
            f"the files are of {len(series)} DICOM series: send those of one, or name it (series=<UID>). There are "
            + "; ".join(f"{one.description or 'one without a description'} ({_size(one)})" for one in series)
        )
        self.series = series


def _size(series: FoundSeries) -> str:
    count = len(series.files)
    return ", ".join(filter(None, (series.modality, f"{count} image{'s' if count > 1 else ''}")))


def stored_names(files: Sequence[UploadFile]) -> list[str]:
    """Return the names under which to store files, in their order: their own, without folders.

    If some are the same, all are numbered in the order of their paths, which can be that of the slices.

    Raises:
        UnsupportedImageError: If a file is empty, or there is a ZIP archive among others.
        HTTPException: For a name that is none; 409 for one file that has the name of the session's own.
    """
    heads = [not_empty(file).file.read(HEAD_LENGTH) for file in files]
    for file in files:
        file.file.seek(0)
    if len(files) > 1 and any(map(is_zip, heads)):
        raise UnsupportedImageError("there is a ZIP archive among the files: send it alone, or the files themselves")
    paths = [re.split(r"[/\\]", file.filename or "") for file in files]
    names = [plain_name(path[-1]) for path in paths]
    if names == [DESCRIPTION]:
        raise HTTPException(409, f"a session keeps its description in {DESCRIPTION}: give the file another name")
    if len(set(names)) == len(names):
        return names
    order = {n: place for place, n in enumerate(sorted(range(len(paths)), key=paths.__getitem__), start=1)}
    return [f"{order[n]:05}-{name}" for n, name in enumerate(names)]


def one_image(max_bytes: int, series: str) -> Callable[[Path], None]:
    """Return a function that leaves the files of one image in a folder; it unpacks a ZIP archive.

    Args:
        max_bytes: Limit of what is unpacked.
        series: The Series Instance UID of the one to take, where there are several; empty: there must be one.

    Raises (the function):
        SeveralSeriesError: If there are several and none of them is named.
        HTTPException: 422 if the one that is named is not there.
        ImageError: As :func:`~lib.imaging.formats.zip_archive.unpack_image`.
    """

    def settle(folder: Path) -> None:
        [*files] = folder.iterdir()
        if len(files) == 1 and _is_zip(files[0]):
            archive = files[0].rename(folder.with_name("archive"))
            unpack_image(archive, folder, max_bytes=max_bytes, max_files=MAX_SESSION_FILES)
            archive.unlink()
        if not series and len(os.listdir(folder)) == 1:
            return
        found = series_in(folder)
        chosen = [one for one in found if one.uid == series] if series else found
        if not chosen and series:
            raise HTTPException(422, f"there is no image of the series {series[:64]!r} among the files")
        if len(chosen) > 1:
            raise SeveralSeriesError(chosen)
        if len(found) > 1:
            for path in folder.iterdir():
                if path.name not in chosen[0].files:
                    path.unlink()

    return settle


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return is_zip(file.read(HEAD_LENGTH))
