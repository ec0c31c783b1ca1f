"""A sweep over all that can be read from a server, by its own description of its routes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

SLICE = ("plane", "index", "version")
"""What a route that shows a slice asks for besides what it is a slice of."""


POINT = ("version", "frame", "x", "y")
"""What a route that shows what a click would mark asks for likewise."""


@dataclass
class Found:
    """Ids of what there is: each label with its tag, and the versions of what can be looked at."""

    images: Sequence[str] = ()
    versions: dict[str, str] = field(default_factory=dict)
    labels: Sequence[tuple[str, str]] = ()
    results: list[float] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)

    def look(self, datastore: Mapping[str, Any]) -> None:
        """Take the images and labels of ``GET /datastore/?output=all``."""
        objects = datastore["objects"]
        self.images = list(objects)
        self.labels = [(name, tag) for name, item in objects.items() for tag in item["labels"]]


def path_of(path: str, query: Mapping[str, str]) -> str:
    """A path with its query, whatever text that is."""
    pairs = {key: raw(value) for key, value in query.items()}
    return f"{path}?{urlencode(pairs)}" if pairs else path


def raw(text: str) -> bytes:
    """UTF-8, or as near to it as a text with halves of surrogate pairs comes."""
    return text.encode("utf-8", "surrogatepass")


def readings(openapi: Mapping[str, Any], found: Found) -> Iterator[tuple[str, str]]:
    """Method and path of everything that can be read, for all that there is, with each choice of its options once."""
    for path, methods in openapi["paths"].items():
        for method in methods.keys() & {"get", "head"}:
            parameters = methods[method].get("parameters", [])
            options = {each["name"]: _choices(each["schema"], openapi) for each in parameters}
            for ids in _rows({each["name"] for each in parameters if each["required"]}, found):
                filled = path.format_map({key: quote(raw(str(value)), safe="") for key, value in ids.items()})
                in_query = {key: value for key, value in ids.items() if f"{{{key}}}" not in path}
                yield method.upper(), path_of(filled, in_query)
                for name, choice in ((name, choice) for name, values in options.items() for choice in values):
                    yield method.upper(), path_of(filled, {**in_query, name: choice})


def _rows(required: set[str], found: Found) -> list[dict[str, str]]:
    """Values of the required parameters; a new route whose parameter is not known here is not passed over."""
    rows: dict[frozenset[str], list[dict[str, str]]] = {
        frozenset(): [{}],
        frozenset({"image"}): [{"image": image} for image in found.images],
        frozenset({"image", "tag"}): [{"image": label, "tag": tag} for label, tag in found.labels],
        frozenset({"label", "tag"}): [{"label": label, "tag": tag} for label, tag in found.labels],
        frozenset({"tag"}): [{"label": label, "tag": tag} for label, tag in found.labels],
        frozenset({"timestamp"}): [{"timestamp": str(result)} for result in found.results],
        frozenset({"image", *SLICE}): [_slice_of("image", image, found) for image in found.images],
        frozenset({"image", *POINT}): [_point_of("image", image, found) for image in found.images],
        frozenset({"session_id", *POINT}): [_point_of("session_id", session, found) for session in found.sessions],
        frozenset({"session_id"}): [{"session_id": session} for session in found.sessions],
        frozenset({"session_id", *SLICE}): [_slice_of("session_id", session, found) for session in found.sessions],
    }
    return rows[frozenset(required)]


def _slice_of(kind: str, name: str, found: Found) -> dict[str, str]:
    return {kind: name, "plane": "axial", "index": "0", "version": found.versions.get(name, "none")}


def _point_of(kind: str, name: str, found: Found) -> dict[str, str]:
    return {kind: name, "version": found.versions.get(name, "none"), "frame": "0", "x": "0", "y": "0"}


def _choices(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> list[str]:
    """The values of an enumeration or a flag; a few numbers; nothing for a text."""
    parts = [schema, *schema.get("anyOf", [])]
    parts += [openapi["components"]["schemas"][part["$ref"].rsplit("/", 1)[1]] for part in parts if "$ref" in part]
    found = [part.get("enum", []) for part in parts]
    found += [("true", "false") for part in parts if part.get("type") == "boolean"]
    found += [("0", "1", "-1", "9" * 30) for part in parts if part.get("type") == "integer"]
    return [str(choice) for choice in itertools.chain(*found)]
