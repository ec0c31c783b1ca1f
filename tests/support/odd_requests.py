"""Requests with odd values at every place that a route reads, drawn from a seed.

A request is made of values that are right, of which one or two are replaced: so that most get as far as the place that
reads the odd one, and some are done.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests

from support.phantoms import BALL_CENTRE
from support.readings import Found, path_of, raw

FINAL_TAGS = ("final", "original")


def _deep(count: int, opening: str, closing: str, inside: str = "") -> str:
    return opening * count + inside + closing * count


ODD = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e308", "5e-324", "-0.0", "0", "1", "-1", "1.5"),
    *("9007199254740993", "12345678901234567890", "-" + "9" * 400, "9" * 5000, "null", "true", "false"),
    *('""', '" "', '"\\u0000"', '"\\ud800"', '"a\\udfff\\ud800b"', '"\\u202egnp"', '"a\\nb"', '"\\\\"', '"病変"'),
    *('"../../etc/passwd"', '"/etc/passwd"', '".."', '"%2e%2e"', '"__class__"', '"NaN"', '"1e999"', '"true"'),
    *('"' + "x" * 300 + '"', '"' + "x" * 5000 + '"', '"' + "ä" * 2**19 + '"'),
    *("[]", "{}", "[[]]", "[{}]", "[null]", "[NaN]", '["\\ud800"]', "[[1, 2, 3]]", "[[1, [2]], [3]]", "[1e999]"),
    *('{"a": NaN}', '{"\\ud800": 1}', '{"": {"": ""}}', '{"x": 1, "x": NaN}', '{"ts": Infinity}', '{"name": []}'),
    *(_deep(20, "[", "]"), _deep(40, "[", "]"), _deep(900, "[", "]"), _deep(50_000, "[", "]")),
    *(_deep(20, '{"a":', "}", "1"), _deep(40, '{"a":', "}", "1"), _deep(50_000, '{"a":', "}", "1")),
    *("[" + ",".join(["0"] * 3000) + "]", '"\ud800"', '"a\x00\x1b"', "\ud800"),
)
"""Texts of JSON values, or of what Python's parser takes for one."""

NO_OBJECTS = (
    *("", " ", "null", "true", "5", "NaN", "-Infinity", '"text"', '"\\ud800"', "[]", "[{}]", "[" * 50_000, "9" * 5000),
    *("{", "{]", "{'a': 1}", '{"a": 1}x', '{"a": 1,}', '{"a"}', "\ufeff{}", "\x00", '{"a": "\n"}', "hello"),
    _deep(50_000, "[", "]"),
)
"""What stands where an object belongs."""

ODD_NAMES = (
    *(
        "",
        " ",
        ".",
        "..",
        "../x",
        "..%2fx",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "a\x00b",
        "a\nb",
        "a\r\nX: 1",
        "\ud800",
        "病変",
    ),
    *("x" * 200, "x" * 300, "x" * 5000, ".hidden", "datastore_v2.json", "labels", "a.nii.gz", "CON", "a b", "a?b#c&d"),
    *("e\u0301", "\u202egnp", "%00", "'", '"', "$(x)", "*", "-rf", "None", "null", "final"),
)
"""Ids, tags and names of files."""

ODD_NUMBERS = (
    "",
    " ",
    "NaN",
    "Infinity",
    "-1",
    "0",
    "1",
    "1.5",
    "1e3",
    "1e999",
    "9" * 30,
    "9" * 5000,
    "0x10",
    "١",
    "1_0",
)

INFO = {
    "ts": "1732288000.5",
    "name": '"a.nii.gz"',
    "strategy": '{"random": {"ts": 1732288000, "client_id": "x"}}',
    "label_info": '[{"name": "liver", "idx": 1}]',
    "params": '{"scores": [0.5], "found": [{"slice": 1, "scores": [0.5]}], "areas": [3]}',
    "model": '"sam_tiny"',
    **{"ext": '".nii.gz"', "checksum": '"0"', "labels": "{}", "image": '"a"', "tag": '"final"', "x": "1"},
}
_POINT, _BOX = json.dumps([list(BALL_CENTRE)]), "[20, 40, 12, 36, 4, 9]"
_SCRIBBLE = '[{"points": [[20, 20, 7], [30, 24, 7]], "width": 2, "positive": true}]'
_LASSO = '[{"points": [[5, 5, 7], [9, 5, 7], [9, 9, 7]], "positive": false}]'
INFER = {
    **{"foreground": _POINT, "background": "[[5, 5, 7]]", "roi": _BOX, "slice": str(BALL_CENTRE[2])},
    **{"window": '{"center": 300, "width": 500}', "candidates": '"best of three"', "max_slices": "2"},
    **{"scribbles": _SCRIBBLE, "lassos": _LASSO, "start_from_label": "true", "protect": "true"},
    **{"box_from_points": "false", "largest_component": "true", "fill_holes": '"true"'},
    **{"label": '"liver"', "label_tag": '"mine"', "save_label": "true", "client_id": '"someone"'},
    **{"label_info": '[{"name": "liver", "idx": 1, "model_name": "m"}]', "result_extension": '".nii.gz"'},
    **{"result_dtype": '"uint8"', "result_write_to_file": "true", "result_compress": "false", "prompts": '"labels"'},
    **{"image": '"a"', "model": '"sam_tiny"', "device": '"cpu"', "logging": '"info"', "session": "{}", "restore": "1"},
    **{"sam_input": "{}", "earlier": "[]", "object_name": '"x"', "image_path": '"/etc/passwd"', "cache": "true"},
}
INFER_ODD = {
    "result_dtype": ('"float128"', '"O"', '"U9"', '"V8"', '"M8[s]"', '"complex64"', '"bool"', '"int64"', '"i4,i4"'),
    "result_extension": ('".exe"', '"nii"', '"/../../x.nii"', '".nrrd"', '".seg.nrrd"', '".json"', '".nii.gz.nii"'),
    **dict.fromkeys(("foreground", "background"), ("[[1, 2]]", "[1, 2, 3]", "[[30, 24, NaN]]", "[[1e400, 2, 3]]")),
    "scribbles": ("[{}]", '[{"points": [[1e308, -1e308, 7]]}]', '[{"points": [[1, 2, NaN]]}]'),
    "lassos": ('[{"points": [[1e308, 0, 7], [-1e308, 9, 7], [9, 9, 7]]}]', '[{"points": [[1, 2]]}]'),
    "roi": ("[1, 2]", "[1, 1, 1, 1, 1, 1]", "[9, 1, 9, 1, 9, 1]", "[-9e99, 9e99, -9e99, 9e99, -9e99, 9e99]"),
    "window": (
        '{"center": 1e308, "width": 1e308}',
        '{"center": 1, "width": 0}',
        '{"center": NaN, "width": 1}',
        '"lung"',
    ),
    "label_info": ('[{"name": ["x"], "idx": {}}]', '[{"name": "\\ud800", "idx": 1}]', '[1, null, "x"]', '{"name": 1}'),
    "max_slices": ('"٣"', '"1_0"', '" 3 "', "1e3", "3.0", '"-0"'),
}
SAM_INPUT = {
    **{"model": '"SAM"', "positive_points": '[{"x": 20, "y": 20}]', "negative_points": '[{"x": 2, "y": 2}]'},
    "rectangles": '[{"startX": 9, "startY": 9, "width": 20, "height": 20}]',
    "scribbles": '[{"points": [{"x": 20, "y": 20}, {"x": 30, "y": 24}], "width": 2}]',
    "lassos": '[{"points": [{"x": 5, "y": 5}, {"x": 9, "y": 5}, {"x": 9, "y": 9}], "positive": false}]',
    **{"frame": "0", "window": '{"center": 300, "width": 500}', "label": '"liver"', "multimask": "true"},
    **{"automatic": "false", "candidate": "0"},
}
SAM_INPUT_ODD = {
    "positive_points": (
        '[{"x": 1e308, "y": -1e308}]',
        '[{"x": NaN, "y": 1}]',
        '[{"x": "1", "y": true}]',
        '[{"x": {}}]',
    ),
    "negative_points": ("[" + ", ".join(['{"x": 1}'] * 5000) + "]", "[" + ", ".join(["9"] * 5000) + "]"),
    "rectangles": (
        '[{"startX": 0, "startY": 0, "width": 1e308, "height": -1e308}]',
        '[{"startX": 5e-324, "startY": 1e999, "width": 0, "height": 0}]',
    ),
    "window": ('{"center": 1e308, "width": 1e308}', '{"center": 1, "width": 5e-324}', '{"center": null, "width": []}'),
    "model": ('"sam_tiny_3d"', '"sam_vit_b"'),
    **dict.fromkeys(("image", "session", "version"), ('"a"', '"../a"', '"\\ud800"', '""', "null")),
}
BATCH = {
    **{"images": '["a"]', "label_tag": '"batch"', "prompts": '"labels"', "max_batch_size": "1"},
    **{"window": '"lung"', "candidates": '"single"', "model": '"sam_tiny"', "device": '"cuda"', "multi_gpu": "false"},
}
BATCH_ODD = {
    "images": ('["a", "a"]', '[["a"]]', "[{}]", '["../a"]', '"unlabeled"', '"final"', '["\\ud800"]'),
    "max_batch_size": ("true", "1.0", '"1"', "9999999999999999999"),
    "label_tag": ('"final"', '"../x"', '"a/b"', '"A"', '"' + "t" * 260 + '"'),
}
STRATEGY = {
    **{"strategy": '"random"', "label_tag": '"mine"', "labels": '["liver"]', "client_id": '"x"', "user": '"y"'},
    **{"seed": "3", "slices": "[1]", "info": "{}"},
}


@dataclass(frozen=True)
class Call:
    """A request; its text is short enough for a message."""

    method: str
    path: str
    body: dict[str, Any] = field(default_factory=dict)

    def send(self, session: requests.Session, url: str) -> requests.Response:
        return session.request(self.method, url + self.path, timeout=120, **self.body)

    def __str__(self) -> str:
        return f"{self.method} {self.path[:300]} {str(self.body)[:600]}"


class OddRequests:
    """Draws requests.

    Args:
        seed: Of the same one the same requests come, as long as they are answered alike.
        image: Content of a NIfTI image of the ball's shape.
        label: Likewise, of a label on its voxels.
        picture: Content of a PNG.
        found: What there is; results and sessions are added by whom the answers reach.
    """

    def __init__(self, seed: int, *, image: bytes, label: bytes, picture: bytes, found: Found) -> None:
        self._random = random.Random(seed)
        self._image, self._label, self._picture, self._found = image, label, picture, found

    def next(self) -> Call:
        """The next request."""
        kinds: list[Callable[[], Call]] = [
            *(self._put_info, self._put_label, self._put_image, self._infer, self._infer, self._segment, self._segment),
            *(self._session, self._batch, self._next_sample, self._remove),
        ]
        return self._random.choice(kinds)()

    def _put_info(self) -> Call:
        which = self._random.choice(("image/info", "label/info", "updatelabelinfo"))
        query = {"image": self._name()} if which == "image/info" else self._label_of()
        key = "params" if which == "updatelabelinfo" else "info"
        return Call("PUT", path_of(f"/datastore/{which}", query), self._form(key, self._object(INFO)))

    def _put_label(self) -> Call:
        query = {"image": self._name(), "tag": self._tag()}
        text = self._object(INFO) if self._random.random() < 0.5 else "{}"
        form = self._form("params", text, label=self._file(self._label))
        return Call("PUT", path_of("/datastore/label", query), form)

    def _put_image(self) -> Call:
        query = {"image": self._random.choice(("", "new", "newer", self._odd_name()))}
        return Call(
            "PUT",
            path_of("/datastore/image", query),
            self._form(
                "params", self._object(INFO), file=self._file(self._random.choice((self._image, self._picture)))
            ),
        )

    def _infer(self) -> Call:
        model = self._mostly("sam_tiny", "sam_tiny_3d", self._odd_name() or "x")
        query = {"image": self._name()}
        if self._random.random() < 0.2 and self._found.sessions:
            query = {"session_id": self._mostly(self._found.sessions[-1], self._odd_name())}
        if self._random.random() < 0.5:
            query["output"] = self._random.choice(("image", "json", "all", "dicom_seg", "dicom_json", self._odd_name()))
        files = {"label": self._file(self._label)} if self._random.random() < 0.1 else {}
        if self._random.random() < 0.1:
            query, files["file"] = {}, self._file(self._image)
        most = {"foreground": _POINT, "slice": INFER["slice"]}
        form = self._form("params", self._object(INFER, INFER_ODD, most), **files)
        return Call("POST", path_of("/infer/" + quote(raw(model), safe=""), query), form)

    def _segment(self) -> Call:
        chosen = {"positive_points": SAM_INPUT["positive_points"], "automatic": "false"}
        if self._random.random() < 0.2 and self._found.results:
            chosen["refine"] = str(self._found.results[-1])
        text = self._object(SAM_INPUT | {"refine": "1.5", "surprise": "1"}, SAM_INPUT_ODD, chosen)
        files = {"file": self._file(self._random.choice((self._picture, self._image)))}
        if self._random.random() < 0.3:  # an image that is here
            sessions = [("session", session) for session in self._found.sessions]
            name, value = self._random.choice([("image", self._name()), *sessions])
            files, text = {}, text.replace("{", f"{{{json.dumps(name)}: {json.dumps(value)}, ", 1)
        if not text.strip():  # every object is looked for then: slow, and nothing odd
            text = "{"
        form = self._form("sam_input", text, **files)
        headers = {
            "Prefer": self._random.choice(("respond-async", "return=representation", "wait=NaN", "\x7f", "x" * 5000))
        }
        return Call("POST", "/segment_input_image/", {**form, "headers": self._sometimes(headers)})

    def _session(self) -> Call:
        if self._random.random() < 0.4:
            session = self._mostly(*(self._found.sessions or ["x"]), quote(raw(self._odd_name()), safe="") or "x")
            query = {
                "update_ts": self._random.choice(ODD_NUMBERS),
                "image": self._random.choice(("true", "false", "x")),
            }
            return Call(self._random.choice(("GET", "GET", "DELETE")), path_of(f"/session/{session}", query))
        query = {}
        if self._random.random() < 0.7:
            query["expiry"] = self._random.choice(ODD_NUMBERS)
        if self._random.random() < 0.3:
            query["uncompress"] = self._random.choice(("false", "true", "maybe", "", "2", "null"))
        files = [("files", self._file(self._image)) for _ in range(self._random.choice((0, 1, 1, 2)))]
        return Call("PUT", path_of("/session/", query), {"files": files})

    def _batch(self) -> Call:
        if self._random.random() < 0.1:
            return Call("DELETE", "/batch/infer")
        most = {key: BATCH[key] for key in ("images", "prompts", "max_batch_size")}
        query = {"run_sync": self._random.choice(("true", "false", "maybe"))}
        if self._random.random() < 0.2:
            query["images"] = self._random.choice(("all", "labeled", "unlabeled", self._odd_name()))
        text = self._object(BATCH, BATCH_ODD, most)
        if f'"images": {BATCH["images"]}' not in text:  # of all images every object: nobody waits for that
            query["run_sync"] = "false"
        return Call("POST", path_of("/batch/infer/sam_tiny", query), self._json(text))

    def _next_sample(self) -> Call:
        strategy = self._mostly("random", "first", "uncertainty", quote(raw(self._odd_name()), safe="") or "x")
        return Call("POST", f"/activelearning/{strategy}", self._json(self._object(STRATEGY)))

    def _remove(self) -> Call:
        if self._random.random() < 0.25:
            label = self._label_of()
            return Call("DELETE", path_of("/datastore/label", {"id": label["label"], "tag": label["tag"]}))
        added = [image for image in self._found.images if image not in "abcd"]
        return Call(
            "DELETE", path_of("/datastore/image", {"id": self._random.choice([*added, *added, self._odd_name()])})
        )

    def _object(
        self,
        known: Mapping[str, str],
        near: Mapping[str, Sequence[str]] | None = None,
        always: Mapping[str, str] | None = None,
    ) -> str:
        """The text of an object: some known keys, one or two of them with an odd value; or of none."""
        chance = self._random.random()
        if chance < 0.08:
            return self._random.choice(NO_OBJECTS)
        pairs = list({**(always or {}), **{key: known[key] for key in self._some(known)}}.items())
        for _ in range(self._random.choice((0, 0, 1, 1, 1, 2))):
            key = self._random.choice([*known, *(near or {}), "surprise"])
            odd = self._random.choice((near or {}).get(key, ODD) if self._random.random() < 0.4 else ODD)
            if self._random.random() < 0.9:  # in its place; else the same key twice
                pairs = [pair for pair in pairs if pair[0] != key]
            pairs.insert(self._random.randint(0, len(pairs)), (key, odd))
        if chance < 0.12:
            pairs.append((self._random.choice(("", "\ud800", "x" * 5000, "a\x00b", "__proto__")), "1"))
        return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in pairs) + "}"

    def _some(self, known: Mapping[str, str]) -> list[str]:
        return self._random.sample(list(known), self._random.randint(0, min(4, len(known))))

    def _form(self, key: str, text: str, **files: Any) -> dict[str, Any]:
        """A form with a field: with files, or half of the time, in several parts."""
        content = raw(text)
        if files or self._random.random() < 0.5:
            return {"files": [(key, (None, content)), *files.items()]}
        return {"data": {key: content}}

    def _json(self, text: str) -> dict[str, Any]:
        kinds = (
            "text/plain",
            "application/json; charset=utf-16",
            "application/json; charset=none",
            "multipart/form-data",
            "",
        )
        return {
            "data": raw(text),
            "headers": {"Content-Type": self._mostly("application/json", self._random.choice(kinds))},
        }

    def _file(self, content: bytes) -> tuple[str, bytes]:
        """Name and content of a file; either may be odd."""
        name = "a.png" if content.startswith(b"\x89PNG") else "a.nii.gz"
        if self._random.random() < 0.15:
            name = self._random.choice([name for name in ODD_NAMES if "\ud800" not in name]) or "x"
        if self._random.random() < 0.05:
            content = self._random.choice((b"", b"\x00", content[:50], b"NaN", content + content))
        return name, content

    def _name(self) -> str:
        return self._mostly(*(self._found.images or "a"), self._odd_name())

    def _tag(self) -> str:
        return self._mostly(*FINAL_TAGS, "mine", self._odd_name())

    def _label_of(self) -> dict[str, str]:
        label, tag = self._random.choice(self._found.labels or [("a", "final")])
        return (
            {"label": label, "tag": tag} if self._random.random() < 0.8 else {"label": self._name(), "tag": self._tag()}
        )

    def _odd_name(self) -> str:
        return self._random.choice(ODD_NAMES)

    def _mostly(self, *values: str) -> str:
        """One of the values; the last one rarely."""
        return values[-1] if self._random.random() < 0.15 else self._random.choice(values[:-1])

    def _sometimes(self, headers: dict[str, str]) -> dict[str, str]:
        return headers if self._random.random() < 0.1 else {}
