"""Operations on volumes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, Unpack

import httpx
import numpy as np

from sam_app_client import nrrd
from sam_app_client.base import BaseClient
from sam_app_client.datastore import LabelInput, label_file
from sam_app_client.errors import ApiError
from sam_app_client.exchange import Operation, Request, as_json, ask, segment_of_path
from sam_app_client.files import File, ImageInput, image_file, mask_file
from sam_app_client.prompts import VolumePrompts, check_names, viewer_params
from sam_app_client.results import StoredImage, Volume

T = TypeVar("T")

ExportType: TypeAlias = Literal["seg", "rtstruct", "stl"]

_SECONDS = 2
"""Time after which the server tells what it has found until then."""


def segment_volume(
    client: BaseClient[Any],
    image: StoredImage | ImageInput,
    *,
    model: str | None = None,
    on_progress: Callable[[Volume], object] | None = None,
    **prompts: Unpack[VolumePrompts],
) -> Operation[Volume]:
    """Follow an object through a volume, and return it when that is done.

    Prompts of the same client, on the same volume and for the same ``label``, refine: give the earlier ones again and
    further ones with them, and only what they change is worked on.

    Args:
        image: An image of the datastore, a file, a folder with the DICOM files of one series, or an array
            ``(slices, rows, columns)``.
        model: One whose name ends in ``_3d``; without it that of the server's default model. Another one segments the
            slice of the prompts alone; what was learned for a label, ``auto_spleen``, needs no prompts.
        on_progress: Called every two seconds or so with what was found until then.
        **prompts: What is marked and how to segment, see :class:`VolumePrompts`.

    Returns:
        The object; its ``mask`` is ``(slices, rows, columns)``, see :class:`Volume`.

    Raises:
        ApiError: If the server refuses it; ``detail`` says why.
        ConnectionFailedError, VersionMismatchError: If it cannot be asked.
        OSError: If a file cannot be read.
        TypeError, ValueError: If an argument is none that can be sent.
    """
    check_names(prompts, VolumePrompts)
    if "start" in prompts and "protect" in prompts:
        raise ValueError("give start or protect, not both: the server takes one label of a volume")
    model = model or f"{client._default_model}_3d"
    params = {**viewer_params(prompts), "client_id": client.client_id, "result_extension": ".nrrd"}
    label = prompts.get("start", prompts.get("protect"))
    files = [] if label is None else [("label", mask_file(label, "label"))]
    follow = partial(_follow, model, params, files, on_progress=on_progress)
    if isinstance(image, StoredImage):
        return (yield from follow({"image": image.id}))
    if isinstance(image, (str, os.PathLike)) and Path(image).is_dir():
        return (yield from _in_session(_files_of(Path(image)), follow))
    if on_progress is not None:  # asks more than once, and sends the image once
        return (yield from _in_session([image_file(image)], follow))
    return (yield from _infer(model, params, [("file", image_file(image)), *files], {}))


def export(
    client: BaseClient[Any],
    image: StoredImage | str | os.PathLike[str],
    label: LabelInput,
    type: ExportType = "seg",
    *,
    names: Mapping[int, str] | None = None,
) -> Operation[bytes]:
    """Return labels of an image in another format; the server stores nothing.

    Args:
        image: An image of the datastore, a file, or a folder with the DICOM files of one series.
        label: On the image's voxels. One of a volume as an array alone has no place: ``volume.with_mask(array)`` gives
            it one.
        type: ``seg``, a DICOM Segmentation, and ``rtstruct``, an RT Structure Set, of DICOM images; ``stl``, a ZIP
            with a surface in mm of each object, of volumes with even steps.
        names: Of the objects, by their number in the label.

    Returns:
        The file's bytes.

    Raises:
        ApiError: If the server refuses it; ``detail`` says why.
        ConnectionFailedError, VersionMismatchError: If it cannot be asked.
        OSError: If a file cannot be read.
        TypeError, ValueError: If an argument is none that can be sent.
    """
    info = [{"name": name, "idx": number} for number, name in (names or {}).items()]
    form = {"params": as_json({"label_info": info})} if info else {}
    file = label_file(label)

    def convert(query: Mapping[str, str]) -> Operation[bytes]:
        [(kind, name)] = query.items()
        path = f"/{'images' if kind == 'image' else 'session'}/{segment_of_path(name)}/export"
        answer = yield from ask(Request("POST", path, {"type": type}, form=form, files=[("label", file)]))
        return answer.content

    if isinstance(image, StoredImage):
        return (yield from convert({"image": image.id}))
    return (yield from _in_session(_files_of(Path(image)), convert))


def _files_of(path: Path) -> list[File]:
    """Return a file, or the files of a series.

    Raises:
        ValueError: If it is a folder without files.
    """
    files = (
        [image_file(one) for one in sorted(path.iterdir()) if one.is_file()] if path.is_dir() else [image_file(path)]
    )
    if not files:
        raise ValueError(f"there is no file in {path}")
    return files


def _in_session(image: Sequence[File], work: Callable[[Mapping[str, str]], Operation[T]]) -> Operation[T]:
    """Send an image's files, which the server keeps for the time of this work."""
    answer = yield from ask(Request("PUT", "/session/", files=[("files", file) for file in image]))
    session = answer.json()["session_id"]
    try:
        found = yield from work({"session_id": session})
    except ApiError:
        yield from ask(Request("DELETE", f"/session/{session}"))
        raise
    yield from ask(Request("DELETE", f"/session/{session}"))
    return found


def _follow(
    model: str,
    params: Mapping[str, Any],
    files: list[tuple[str, File]],
    query: Mapping[str, str],
    on_progress: Callable[[Volume], object] | None,
) -> Operation[Volume]:
    """Segment an image that the server has; with ``on_progress`` in pieces of some time each."""
    if on_progress is None:
        return (yield from _infer(model, params, files, query))
    before = 0
    while True:
        found = yield from _infer(model, {**params, "seconds": _SECONDS}, files, query)
        count = len(found.facts.get("found", ()))
        if found.facts.get("is_complete", True):
            return found
        if count <= before:  # the server does not go on where it ended: it has too many clients
            return (yield from _infer(model, params, files, query))
        before = count
        on_progress(found)


def _infer(
    model: str, params: Mapping[str, Any], files: list[tuple[str, File]], query: Mapping[str, str]
) -> Operation[Volume]:
    query = {**query, "output": "all"}
    form = {"params": as_json(params)}
    answer = yield from ask(Request("POST", f"/infer/{segment_of_path(model)}", query, form=form, files=files))
    parts = _parts(answer)
    voxels, affine = nrrd.decode(parts["image"])
    return Volume(voxels.astype(np.uint8), affine, json.loads(parts["params"]))


def _parts(answer: httpx.Response) -> dict[str, bytes]:
    """Return the parts of a multipart answer by name."""
    boundary = answer.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    found = {}
    for part in answer.content.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = head.partition(b'name="')[2].partition(b'"')[0].decode()
        found[name] = content.removesuffix(b"\r\n")
    return found
