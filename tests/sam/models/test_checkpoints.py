"""Checkpoints: what fits is taken, anything else is refused with the reason, and nothing half-done is in place."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib.sam.models import checkpoints, checksums
from lib.sam.models.checkpoints import CheckpointError, CheckpointStore
from lib.sam.models.registry import MODELS, ModelSpec


@dataclass(frozen=True)
class SmallSpec(ModelSpec):
    """A model of two layers in place of SAM."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def small(name: str = "small", suffix: str = ".pth", **options: object) -> SmallSpec:
    return SmallSpec(name, "", "MIT", "tiny", f"{name}_weights{suffix}", **options)  # type: ignore[arg-type]


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return small().build().state_dict()


def save(path: Path, seed: int = 0) -> bytes:
    torch.save(weights(seed), path)
    return path.read_bytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    folder = tmp_path / "model"
    folder.mkdir()
    return CheckpointStore(folder)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModelSpec]:
    """The models that `add` chooses among, for a test to fill."""
    models: dict[str, ModelSpec] = {}
    monkeypatch.setattr(checkpoints, "MODELS", models)
    return models


class TestState:
    def test_follows_the_file(self, store: CheckpointStore) -> None:
        spec = small()
        assert store.state(spec) == "missing"
        save(store.path(spec))
        assert store.state(spec) == "unverified"
        store.verify(spec)
        assert store.state(spec) == "verified"
        assert CheckpointStore(store.folder).state(spec) == "verified"
        os.utime(store.path(spec), ns=(1, 1))
        assert store.state(spec) == "unverified"
        store.path(spec).write_bytes(b"short")
        assert store.state(spec) == "mismatch"

    def test_is_mismatch_after_a_failed_verification(self, store: CheckpointStore) -> None:
        spec = small(md5="0" * 32)
        save(store.path(spec))
        with pytest.raises(CheckpointError):
            store.verify(spec)
        assert store.state(spec) == "mismatch"


class TestVerify:
    def test_gives_the_checksums_and_records_them(self, store: CheckpointStore) -> None:
        spec = small()
        content = save(store.path(spec))
        digests = store.verify(spec)
        assert digests.sha256 == hashlib.sha256(content).hexdigest()
        assert digests.md5 == md5(content)
        assert CheckpointStore(store.folder).known(spec) == digests

    def test_refuses_a_file_without_the_publishers_checksum(self, store: CheckpointStore) -> None:
        spec = small(md5=md5(b"the right one"))
        save(store.path(spec))
        with pytest.raises(CheckpointError, match=r"damaged or another one: its MD5 sum is .* the publisher's is"):
            store.verify(spec)

    def test_refuses_a_file_that_has_changed_since_the_first_time(self, store: CheckpointStore) -> None:
        spec = small()
        save(store.path(spec))
        store.verify(spec)
        save(store.path(spec), seed=1)
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"small_weights.pth has changed: its SHA-256"):
                store.load_into(spec.build(), spec)

    def test_finds_a_changed_byte_behind_unchanged_size_and_time(self, store: CheckpointStore) -> None:
        spec = small()
        content = bytearray(save(store.path(spec)))
        store.verify(spec)
        status = store.path(spec).stat()
        content[-200] ^= 1
        store.path(spec).write_bytes(content)
        os.utime(store.path(spec), ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(CheckpointError, match="has changed"):
            store.verify(spec)

    def test_takes_a_new_version_of_a_bundled_file(self, store: CheckpointStore) -> None:
        spec = small(bundled=True)
        save(store.path(spec))
        first = store.verify(spec)
        save(store.path(spec), seed=1)
        assert store.verified(spec) != first
        assert store.state(spec) == "verified"

    def test_does_not_record_a_file_that_does_not_fit(self, store: CheckpointStore) -> None:
        spec = small()
        torch.save({"another": torch.zeros(1)}, store.path(spec))
        with pytest.raises(CheckpointError, match=r"missing 0.weight, .*unexpected another"):
            store.verify(spec)
        assert store.known(spec) is None

    def test_reads_an_unchanged_file_once(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = small()
        save(store.path(spec))
        digests = store.verified(spec)

        def fail(_: Path) -> None:
            raise AssertionError("the file is hashed again")

        monkeypatch.setattr(checkpoints.Digests, "of", fail)
        assert CheckpointStore(store.folder).verified(spec) == digests

    def test_says_how_to_get_a_missing_file(self, store: CheckpointStore) -> None:
        with pytest.raises(CheckpointError, match=r"`scripts/weights download sam_vit_b` or copy sam_vit_b_01ec64.pth"):
            store.require(MODELS["sam_vit_b"])
        with pytest.raises(CheckpointError, match=r"get medsam_vit_b.pth from its publisher and copy it into"):
            store.load_into(nn.Sequential(), MODELS["medsam_vit_b"])
        with pytest.raises(CheckpointError, match="belongs to the app"):
            store.verify(MODELS["sam_tiny"])

    def test_says_that_the_records_are_damaged(self, store: CheckpointStore) -> None:
        save(store.path(small()))
        (store.folder / "checksums.json").write_text("{")
        with pytest.raises(ValueError, match=r"checksums.json in the model folder is damaged"):
            store.verify(small())

    def test_keeps_all_records_of_threads_that_write_at_once(self, store: CheckpointStore) -> None:
        specs = [small(f"model{number}") for number in range(8)]
        for number, spec in enumerate(specs):
            save(store.path(spec), seed=number)
        threads = [
            threading.Thread(target=CheckpointStore(store.folder).verify, args=(spec,)) for spec in specs for _ in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [CheckpointStore(store.folder).state(spec) for spec in specs] == ["verified"] * 8


class TestLoad:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_gives_the_tensors_of_a_pth_file(self, store: CheckpointStore, zipped: bool) -> None:
        spec = small()
        torch.save(weights(), store.path(spec), _use_new_zipfile_serialization=zipped)
        module = spec.build()
        store.load_into(module, spec)
        loaded = module.state_dict()
        assert loaded.keys() == weights().keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in weights().items())

    def test_gives_half_precision_safetensors_to_a_module(self, store: CheckpointStore) -> None:
        spec = small(suffix=".safetensors")
        save_file({name: tensor.half() for name, tensor in weights().items()}, store.path(spec))
        module = spec.build()
        assert store.load_into(module, spec) == store.verify(spec).sha256
        for name, tensor in module.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, weights()[name].half().float())

    def test_runs_nothing_that_a_file_holds(self, store: CheckpointStore, tmp_path: Path) -> None:
        spec, trap = small(), tmp_path / "sprung"

        class Trap:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(trap),)

        torch.save({"0.weight": Trap()}, store.path(spec))
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            store.load_into(spec.build(), spec)
        store.path(spec).write_bytes(pickle.dumps(Trap(), protocol=2))
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            store.load_into(spec.build(), spec)
        assert not trap.exists()

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"<html>404</html>"])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_says_that_a_file_is_no_checkpoint(self, store: CheckpointStore, content: bytes, suffix: str) -> None:
        spec = small(suffix=suffix)
        store.path(spec).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"small_weights{suffix} is not a readable checkpoint"):
            store.load_into(spec.build(), spec)

    def test_takes_the_weights_of_a_training_state(self, store: CheckpointStore) -> None:
        spec = small()
        torch.save({"model": weights(), "epoch": 3, "optimizer": {"state": {}}}, store.path(spec))
        module = spec.build()
        store.load_into(module, spec)
        assert torch.equal(module.state_dict()["0.weight"], weights()["0.weight"])

    def test_refuses_what_is_no_dictionary_of_tensors(self, store: CheckpointStore) -> None:
        spec = small()
        torch.save({"weights": weights(), "epoch": 3}, store.path(spec))
        with pytest.raises(
            CheckpointError, match=r"does not hold weights \(tensors by name, or these under the key model"
        ):
            store.load_into(spec.build(), spec)

    def test_names_what_does_not_fit_the_module(self, store: CheckpointStore) -> None:
        spec = small()
        save(store.path(spec))
        with pytest.raises(CheckpointError, match=r"0.weight is 4×3 instead of 5×3, 0.bias is 4 instead of 5"):
            store.load_into(nn.Sequential(nn.Linear(3, 5), nn.Linear(4, 2)), spec)
        with pytest.raises(CheckpointError, match=r"missing 2.weight, 2.bias"):
            store.load_into(nn.Sequential(*spec.build(), nn.Linear(2, 2)), spec)

    def test_needs_no_writable_folder(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = small()
        save(store.path(spec))

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError("read-only")

        monkeypatch.setattr(checksums, "atomic_write", refuse)
        store.load_into(spec.build(), spec)
        assert store.state(spec) == "verified"
        assert not (store.folder / "checksums.json").exists()


class TestAdd:
    def test_finds_the_model_by_its_checksum(
        self, store: CheckpointStore, known: dict[str, ModelSpec], tmp_path: Path
    ) -> None:
        content = save(tmp_path / "any name.pth")
        known |= {"other": small("other", md5="1" * 32), "right": small("right", md5=md5(content))}
        assert store.add(tmp_path / "any name.pth").name == "right"
        assert store.path(known["right"]).read_bytes() == content
        assert store.state(known["right"]) == "verified"

    def test_finds_the_model_by_name_if_none_has_the_checksum(
        self, store: CheckpointStore, known: dict[str, ModelSpec], tmp_path: Path
    ) -> None:
        known |= {"summed": small("summed", md5="1" * 32), "free": small("free")}
        save(tmp_path / "free_weights.pth")
        assert store.add(tmp_path / "free_weights.pth").name == "free"

    def test_asks_for_the_model_if_the_file_does_not_tell(
        self, store: CheckpointStore, known: dict[str, ModelSpec], tmp_path: Path
    ) -> None:
        known |= {"summed": small("summed", md5="1" * 32), "free": small("free")}
        save(tmp_path / "mine.pth")
        with pytest.raises(CheckpointError, match=r"the tensors of summed and free, .* with --model"):
            store.add(tmp_path / "mine.pth")
        assert store.add(tmp_path / "mine.pth", known["free"]).name == "free"

    def test_refuses_what_fits_no_model_and_says_why(
        self, store: CheckpointStore, known: dict[str, ModelSpec], tmp_path: Path
    ) -> None:
        known |= {"small": small()}
        torch.save({f"layer{number}": torch.zeros(1) for number in range(9)}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=r"x.pth fits none of the models. small: missing .* and 5 more"):
            store.add(tmp_path / "x.pth")
        assert _files(store) == []

    @pytest.mark.parametrize("spoil", ["checksum", "shape", "suffix", "cut"])
    def test_leaves_nothing_of_a_refused_file(self, store: CheckpointStore, tmp_path: Path, spoil: str) -> None:
        file, spec = tmp_path / "given.pth", small(md5="1" * 32 if spoil == "checksum" else None)
        content = save(file)
        if spoil == "shape":
            torch.save({"0.weight": torch.zeros(2)}, file)
        elif spoil == "suffix":
            spec = small(suffix=".safetensors")
        elif spoil == "cut":
            file.write_bytes(content[:-500])
        with pytest.raises(CheckpointError):
            store.add(file, spec)
        assert _files(store) == []

    def test_replaces_a_verified_file_only_when_told_to(self, store: CheckpointStore, tmp_path: Path) -> None:
        spec, first, second = small(), tmp_path / "1.pth", tmp_path / "2.pth"
        save(first)
        content = save(second, seed=1)
        store.add(first, spec)
        with pytest.raises(CheckpointError, match="--replace"):
            store.add(second, spec)
        assert store.state(spec) == "verified"
        store.add(second, spec, replace=True)
        assert store.path(spec).read_bytes() == content
        assert store.state(spec) == "verified"

    def test_verifies_a_file_that_is_in_place_already(self, store: CheckpointStore) -> None:
        spec = small()
        save(store.path(spec))
        store.add(store.path(spec), spec)
        assert store.state(spec) == "verified"

    def test_names_a_file_that_is_not_there(self, store: CheckpointStore, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="there is no file"):
            store.add(tmp_path / "nothing.pth")


@dataclass
class Publisher:
    """A server of one file, which can misbehave."""

    content: bytes = b""
    etag: str | None = '"1"'
    ranges: bool = True
    status: int | None = None
    cut_after: int | None = None
    redirect: str | None = None
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    publisher = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            publisher.asked.append(asked)
            if publisher.status or publisher.redirect:
                self.send_response(publisher.status or 302)
                if publisher.redirect:
                    self.send_header("Location", publisher.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, content = 0, publisher.content
            if asked and publisher.ranges and self.headers.get("If-Range") == publisher.etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if publisher.etag:
                self.send_header("ETag", publisher.etag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = len(content) if publisher.cut_after is None else start + publisher.cut_after
            self.wfile.write(content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        publisher.url = f"http://127.0.0.1:{server.server_port}/weights.pth"
        yield publisher
        server.shutdown()


@pytest.fixture
def offered(publisher: Publisher, tmp_path: Path) -> SmallSpec:
    """A model whose right file the publisher has."""
    publisher.content = save(tmp_path / "offered.pth")
    return small(url=publisher.url, md5=md5(publisher.content))


class TestDownload:
    def test_places_and_verifies_the_file(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec, capsys: pytest.CaptureFixture[str]
    ) -> None:
        digests = store.download(offered)
        assert store.path(offered).read_bytes() == publisher.content
        assert digests.md5 == offered.md5
        assert store.state(offered) == "verified"
        assert _files(store) == ["checksums.json", offered.checkpoint]
        captured = capsys.readouterr()
        assert "100%" in captured.err
        assert captured.out == ""

    def test_asks_for_nothing_when_the_file_is_there(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec
    ) -> None:
        store.path(offered).write_bytes(publisher.content)
        store.download(offered)
        assert publisher.asked == []

    def test_replaces_a_file_that_does_not_match(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec
    ) -> None:
        store.path(offered).write_bytes(b"wrong")
        with pytest.raises(CheckpointError):
            store.verify(offered)
        store.download(offered, progress=False)
        assert store.state(offered) == "verified"

    def test_goes_on_where_it_was_cut(self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec) -> None:
        publisher.cut_after = 700
        with pytest.raises(CheckpointError, match=r"cut at 700 of \d+ bytes; the same command goes on from there"):
            store.download(offered, progress=False)
        assert store.state(offered) == "missing"
        publisher.cut_after = None
        store.download(offered, progress=False)
        assert publisher.asked == [None, "bytes=700-"]
        assert store.path(offered).read_bytes() == publisher.content

    def test_starts_again_when_the_publishers_file_has_changed(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec
    ) -> None:
        right = publisher.content
        publisher.content, publisher.cut_after = b"x" * len(right), 700
        with pytest.raises(CheckpointError):
            store.download(offered, progress=False)
        publisher.content, publisher.cut_after, publisher.etag = right, None, '"2"'
        store.download(offered, progress=False)
        assert store.path(offered).read_bytes() == right

    @pytest.mark.parametrize("etag", [None, 'W/"weak"', '"1"'])
    def test_starts_again_at_a_server_without_ranges(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec, etag: str | None
    ) -> None:
        publisher.ranges, publisher.cut_after, publisher.etag = False, 700, etag
        with pytest.raises(CheckpointError):
            store.download(offered, progress=False)
        publisher.cut_after = None
        store.download(offered, progress=False)
        assert store.path(offered).read_bytes() == publisher.content

    def test_takes_a_part_that_is_whole_already(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec
    ) -> None:
        part = store.folder / f"{offered.checkpoint}.part"
        part.write_bytes(publisher.content)
        part.with_name(part.name + ".etag").write_text('"1"')
        store.download(offered, progress=False)
        assert publisher.asked == [f"bytes={len(publisher.content)}-"]
        assert store.state(offered) == "verified"

    def test_drops_a_part_that_is_longer_than_the_file(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec
    ) -> None:
        part = store.folder / f"{offered.checkpoint}.part"
        part.write_bytes(publisher.content + b"more")
        part.with_name(part.name + ".etag").write_text('"1"')
        store.download(offered, progress=False)
        assert store.path(offered).read_bytes() == publisher.content

    @pytest.mark.parametrize("wrong", ["checksum", "content"])
    def test_leaves_nothing_of_a_wrong_file(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec, wrong: str
    ) -> None:
        if wrong == "checksum":
            publisher.content += b"!"
        else:
            publisher.content = b"<html>Sign in to the hospital's network</html>"
            offered = replace(offered, md5=None)
        with pytest.raises(CheckpointError):
            store.download(offered, progress=False)
        assert _files(store) == []

    def test_says_in_one_line_what_the_server_answered(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec
    ) -> None:
        publisher.status = 404
        with pytest.raises(CheckpointError, match=r"small was not downloaded: 127.0.0.1 answered 404 [^\n]*$"):
            store.download(offered, progress=False)
        assert store.state(offered) == "missing"

    def test_says_in_one_line_that_nobody_answers(self, store: CheckpointStore) -> None:
        spec = small(url="http://127.0.0.1:1/weights.pth")
        with pytest.raises(CheckpointError, match=r"127.0.0.1 cannot be reached: [^\n]*$"):
            store.download(spec, progress=False)

    @pytest.mark.parametrize("url", ["http://example.org/a.pth", "ftp://example.org/a.pth", "file:///etc/passwd"])
    def test_takes_no_other_scheme_than_https(self, store: CheckpointStore, publisher: Publisher, url: str) -> None:
        with pytest.raises(CheckpointError, match="only https is downloaded from"):
            store.download(small(url=url), progress=False)
        publisher.redirect = url
        with pytest.raises(CheckpointError, match=r"only https is downloaded from|is not allowed"):
            store.download(small(url=publisher.url), progress=False)

    def test_refuses_a_model_without_a_url(self, store: CheckpointStore) -> None:
        with pytest.raises(CheckpointError, match=r"scripts/weights add medsam_vit_b.pth"):
            store.download(MODELS["medsam_vit_b"], progress=False)

    def test_refuses_to_run_twice_at_once(
        self, store: CheckpointStore, publisher: Publisher, offered: SmallSpec
    ) -> None:
        with (store.folder / f"{offered.checkpoint}.part").open("ab") as part:
            fcntl.flock(part, fcntl.LOCK_EX)
            with pytest.raises(CheckpointError, match=r"another download of small_weights.pth is running"):
                store.download(offered, progress=False)


@pytest.mark.slow
def test_the_real_architecture(tmp_path_factory: pytest.TempPathFactory) -> None:
    """ViT-B with random weights: added by hand as MedSAM's file, verified, and loaded strictly into the module."""
    from segment_anything import sam_model_registry

    spec, folder = MODELS["medsam_vit_b"], tmp_path_factory.mktemp("vit_b")
    file, store = folder / spec.checkpoint, CheckpointStore(folder / "model")
    try:
        module = sam_model_registry["vit_b"]()
        torch.save(module.state_dict(), file)
        assert store.add(file) == spec
        file.unlink()
        with torch.device("meta"):
            other = sam_model_registry["vit_b"]()
        other.to_empty(device="cpu")
        assert store.load_into(other, spec) == store.verify(spec).sha256
        for (name, one), two in zip(module.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(one, two), name
        with pytest.raises(CheckpointError, match="the publisher's is 01ec64d29a2fca3f0661936605ae66f8"):
            store.add(store.path(spec), MODELS["sam_vit_b"])
        with pytest.raises(CheckpointError, match=r"does not fit sam_vit_l|publisher"):
            store.add(store.path(spec), MODELS["sam_vit_l"])
        assert _files(store) == ["checksums.json", spec.checkpoint]
    finally:
        file.unlink(missing_ok=True)
        store.path(spec).unlink(missing_ok=True)


def _files(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"<html>not found</html>",
        bytes(100),
        b"PK\x03\x04" + bytes(60),
        b"\x80\x02}q\x00.",
        b"\x80\x02K",
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_any_other_content_is_refused_with_a_message(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"other{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError):
        CheckpointStore(tmp_path / "model").add(file)
    assert not list(tmp_path.glob("model/*"))


def test_random_bytes_are_refused_with_a_message(tmp_path: Path) -> None:
    rng = random.Random(0)
    file = tmp_path / "other.pth"
    for _ in range(200):
        file.write_bytes(rng.randbytes(rng.randrange(1, 200)))
        with pytest.raises(CheckpointError):
            CheckpointStore(tmp_path / "model").add(file)
