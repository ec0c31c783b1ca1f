import hashlib
import json
import logging
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.base.clock import Clock, TimeLimitError, use_clock
from lib.sam.embeddings import disk
from lib.sam.embeddings.cache import Embedding, EmbeddingCache
from lib.sam.embeddings.disk import QUEUE_LENGTH, DamagedFileError, EmbeddingFiles, pack, unpack
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts

MEGABYTE = 1 << 20


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def an_embedding(name: str, *, finer: int = 0, scale: float = 1.0) -> Embedding:
    """Of a few KB, with values by its name."""
    rng = np.random.default_rng(list(name.encode()))

    def level(side: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(0, scale, (1, 8, side, side)).astype(np.float32))

    return Embedding(level(8), (30, 40), key_of(name), finer=tuple(level(16 << n) for n in range(finer)))


SIZE = len(pack(an_embedding("a")))


def file_of(folder: Path, name: str) -> Path:
    return folder / f"{key_of(name)}.embedding"


def keep(files: EmbeddingFiles, *names: str) -> None:
    for name in names:
        files.put(an_embedding(name))
        files.flush()


def kept(folder: Path) -> set[str]:
    return {name for name in "abcdefghij" if file_of(folder, name).exists()}


def sam_tiny(files: EmbeddingFiles | None) -> Predictor:
    engine = Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu", embedding_files=files, precision="float32")
    return engine.predictor("sam_tiny")


@pytest.mark.parametrize("finer", [0, 2])
def test_what_was_put_is_there_after_a_restart_rounded_to_float16(tmp_path, finer):
    embedding = an_embedding("a", finer=finer)
    files = EmbeddingFiles(tmp_path / "new" / "folder", MEGABYTE)
    assert files.get(embedding.key, "cpu") is None
    files.put(embedding)
    files.flush()
    found = EmbeddingFiles(tmp_path / "new" / "folder", MEGABYTE).get(embedding.key, "cpu")
    assert (found.key, found.image_size, len(found.finer)) == (embedding.key, (30, 40), finer)
    for level, original in zip((found.features, *found.finer), (embedding.features, *embedding.finer), strict=True):
        assert level.dtype == torch.float32 and level.shape == original.shape
        assert torch.equal(level, original.half().float())
        assert bool(((level - original).abs() <= 2**-11 * original.abs() + 2**-25).all())


def test_a_value_beyond_float16_keeps_all_in_float32():
    embedding = an_embedding("a", finer=1)
    embedding.finer[0][0, 0, 0, 0] = 65505
    found = unpack(bytearray(pack(embedding)), embedding.key, "cpu")
    assert torch.equal(found.finer[0], embedding.finer[0]) and torch.equal(found.features, embedding.features)
    embedding.finer[0][0, 0, 0, 0] = -65504
    assert len(pack(embedding)) < len(pack(an_embedding("a", finer=1, scale=1e6))) * 0.6
    assert unpack(bytearray(pack(embedding)), embedding.key, "cpu").finer[0].min() == -65504


@pytest.mark.slow
def test_masks_from_disk_are_those_of_a_fresh_embedding(tmp_path, disc):
    noise = np.random.default_rng(1).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    for image in (disc[0], noise):
        files = EmbeddingFiles(tmp_path, 100 * MEGABYTE)
        fresh = sam_tiny(files).encode(image)
        files.flush()
        predictor = sam_tiny(EmbeddingFiles(tmp_path, 100 * MEGABYTE))
        with use_clock(Clock()) as clock:
            found = predictor.encode(image)
        assert "embedding" in clock.stages and "encode" not in clock.stages
        difference = (found.features - fresh.features).norm() / fresh.features.norm()
        assert 0 < difference <= 5e-4
        height, width = image.shape[:2]
        prompts = [
            Prompts(points=np.array([[0.55 * width, 0.45 * height]]), labels=np.array([1])),
            Prompts(points=np.array([[0.5 * width, 0.5 * height], [3, 3]]), labels=np.array([1, 0])),
            Prompts(box=np.array([0.35 * width, 0.2 * height, 0.75 * width, 0.7 * height])),
        ]
        for multimask in (False, True):
            ours = predictor.decode(found, prompts, multimask=multimask)
            theirs = predictor.decode(fresh, prompts, multimask=multimask)
            for one, other in zip(ours, theirs, strict=True):
                both, either = one.masks & other.masks, one.masks | other.masks
                assert other.masks.any() and both.sum() / either.sum() >= 0.999


@pytest.mark.long
def test_sam2_s_finer_levels_are_kept(tmp_path, medsam2_folder, disc):
    def predictor(files: EmbeddingFiles) -> Predictor:
        spec = MODELS["medsam2"]
        engine = Engine([spec], medsam2_folder, device="cpu", precision="float32", embedding_files=files)
        return engine.predictor(spec.name)

    files = EmbeddingFiles(tmp_path, 100 * MEGABYTE)
    fresh = predictor(files).encode(disc[0])
    files.flush()
    with use_clock(Clock()) as clock:
        found = predictor(EmbeddingFiles(tmp_path, 100 * MEGABYTE)).encode(disc[0])
    assert "encode" not in clock.stages and [level.shape for level in found.finer] == [
        level.shape for level in fresh.finer
    ]
    for level, original in zip(found.finer, fresh.finer, strict=True):
        assert torch.allclose(level, original, rtol=2**-11, atol=2**-25)


def test_memory_comes_first_then_disk_then_computing(tmp_path):
    computed = []

    def compute() -> Embedding:
        computed.append("a")
        return an_embedding("a")

    files = EmbeddingFiles(tmp_path, MEGABYTE)
    cache = EmbeddingCache(MEGABYTE, files)
    cache.get_or_compute(key_of("a"), compute)
    files.flush()
    file_of(tmp_path, "a").rename(tmp_path / "moved")
    cache.get_or_compute(key_of("a"), compute)
    assert computed == ["a"]
    (tmp_path / "moved").rename(file_of(tmp_path, "a"))
    other = EmbeddingCache(MEGABYTE, EmbeddingFiles(tmp_path, MEGABYTE))
    for _ in range(3):
        other.get_or_compute(key_of("a"), compute)
    assert computed == ["a"]
    stats = other.stats()
    assert (stats["hits"], stats["misses"], stats["disk_hits"]) == (2, 1, 1)
    assert (stats["disk_entries"], stats["disk_bytes"]) == (1, SIZE)


def test_requests_for_one_key_at_the_same_time_read_it_once(tmp_path, monkeypatch):
    keep(EmbeddingFiles(tmp_path, MEGABYTE), "a")
    files = EmbeddingFiles(tmp_path, MEGABYTE)
    cache, reads, read = EmbeddingCache(MEGABYTE, files), [], files.get

    def slowly(key, device):
        reads.append(key)
        time.sleep(0.2)
        return read(key, device)

    monkeypatch.setattr(files, "get", slowly)
    threads = [
        threading.Thread(target=cache.get_or_compute, args=(key_of("a"), lambda: pytest.fail("it is there")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(reads) == 1 and files.stats()["hits"] == 1


def test_the_time_limit_holds_for_what_is_on_disk(tmp_path):
    files = EmbeddingFiles(tmp_path, MEGABYTE)
    keep(files, "a")
    with use_clock(Clock(0)), pytest.raises(TimeLimitError):
        files.get(key_of("a"), "cpu")


def with_header(**changes: object) -> bytes:
    """The file of ``a`` with another header, its checksum right."""
    content = pack(an_embedding("a"))
    start = struct.calcsize("<8sHI")
    length = struct.unpack_from("<I", content, start - 4)[0]
    header = json.dumps({**json.loads(content[start : start + length]), **changes}).encode()
    return sealed(content[: start - 4] + struct.pack("<I", len(header)) + header + content[start + length : -32])


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def flipped(place: int) -> bytes:
    content = bytearray(pack(an_embedding("a")))
    content[place] ^= 4
    return bytes(content)


DAMAGED = {
    "empty": b"",
    "short": b"SAMEMBED",
    "cut": pack(an_embedding("a"))[:-1],
    "cut to half": pack(an_embedding("a"))[: SIZE // 2],
    "longer": pack(an_embedding("a")) + b"\0",
    "a bit of the header": flipped(20),
    "a bit of a value": flipped(SIZE // 2),
    "a bit of the checksum": flipped(-1),
    "another image's": pack(an_embedding("b")),
    "another format": sealed(b"\x89PNG\r\n\x1a\n" + pack(an_embedding("a"))[8:-32]),
    "another version": sealed(b"SAMEMBED\2\0" + pack(an_embedding("a"))[10:-32]),
    "text": b"hello, " * 1000,
    "another type": with_header(dtype="object"),
    "other shapes": with_header(shapes=[[1, 8, 8, 9]]),
    "negative shapes": with_header(shapes=[[-1, -8, 8, 8]]),
    "no shapes": with_header(shapes=[]),
    "no size": with_header(image_size=None),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_is_not_whole_is_removed_and_computed_again(tmp_path, content):
    with pytest.raises(DamagedFileError):
        unpack(bytearray(content), key_of("a"), "cpu")
    file_of(tmp_path, "a").write_bytes(content)
    files = EmbeddingFiles(tmp_path, MEGABYTE)
    assert files.get(key_of("a"), "cpu") is None
    assert not file_of(tmp_path, "a").exists() and files.stats()["entries"] == 0
    cache, computed = EmbeddingCache(0, files), []
    for _ in range(2):
        cache.get_or_compute(key_of("a"), lambda: computed.append("a") or an_embedding("a"))
        files.flush()
    assert computed == ["a"]


def test_a_header_as_it_should_be_is_none_of_these():
    assert unpack(bytearray(with_header()), key_of("a"), "cpu").image_size == (30, 40)


def test_the_least_recently_used_goes_first_also_after_a_restart(tmp_path):
    files = EmbeddingFiles(tmp_path, 3 * SIZE)
    keep(files, "a", "b", "c")
    assert files.get(key_of("a"), "cpu")
    keep(files, "d")
    assert kept(tmp_path) == {"a", "c", "d"}
    assert files.get(key_of("c"), "cpu")
    restarted = EmbeddingFiles(tmp_path, 3 * SIZE)
    keep(restarted, "e")
    assert kept(tmp_path) == {"c", "d", "e"}
    assert restarted.stats() == {"hits": 0, "evicted": 1, "lost": 0, "entries": 3, "bytes": 3 * SIZE}


def test_putting_one_again_takes_no_room(tmp_path):
    files = EmbeddingFiles(tmp_path, 2 * SIZE)
    keep(files, "a", "b", "a", "a")
    assert kept(tmp_path) == {"a", "b"} and files.stats()["bytes"] == 2 * SIZE
    keep(files, "c")
    assert kept(tmp_path) == {"a", "c"}


def test_one_larger_than_the_bound_is_not_kept_and_removes_none(tmp_path):
    files = EmbeddingFiles(tmp_path, SIZE)
    keep(files, "a")
    files.put(an_embedding("b", finer=2))
    files.flush()
    assert kept(tmp_path) == {"a"} and files.stats()["lost"] == 1


def test_what_other_processes_did_is_seen_before_long(tmp_path, monkeypatch):
    ours, theirs = EmbeddingFiles(tmp_path, 3 * SIZE), EmbeddingFiles(tmp_path, 3 * SIZE)
    keep(ours, "a", "b")
    keep(theirs, "c")
    assert theirs.get(key_of("a"), "cpu")
    monkeypatch.setattr(disk, "_RESCAN_AFTER_S", 0)
    keep(ours, "d")
    assert kept(tmp_path) == {"a", "c", "d"}


def test_nothing_else_in_the_folder_is_touched(tmp_path):
    others = ["notes.txt", "A" * 64 + ".embedding", key_of("a") + ".embedding.bak", ".part", ".x.part", "a.embedding"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine" * SIZE)
        os.utime(tmp_path / name, (0, 0))
    file_of(tmp_path, "i").mkdir()
    file_of(tmp_path, "j").symlink_to(tmp_path / "notes.txt")
    files = EmbeddingFiles(tmp_path, 2 * SIZE)
    assert files.stats()["entries"] == 0
    keep(files, "a", "b", "c")
    assert files.get(key_of("i"), "cpu") is None
    assert kept(tmp_path) == {"b", "c", "i", "j"}
    assert all((tmp_path / name).read_bytes() == b"mine" * SIZE for name in others)


@pytest.mark.parametrize("name", ["../" + "a" * 61, "a" * 63, "A" * 64, ""])
def test_only_keys_become_names_of_files(tmp_path, name):
    files = EmbeddingFiles(tmp_path / "folder", MEGABYTE)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        files.get(name, "cpu")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        files.put(Embedding(torch.zeros(1), (1, 1), name))


def test_what_a_crash_left_is_removed_once_it_is_old(tmp_path):
    old, new = (tmp_path / f".{digit * 32}.part" for digit in "01")
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 3700,) * 2)
    os.utime(new, (time.time() - 3500,) * 2)
    EmbeddingFiles(tmp_path, MEGABYTE)
    assert not old.exists() and new.exists()


def test_files_are_for_their_owner_alone(tmp_path):
    keep(EmbeddingFiles(tmp_path / "folder", MEGABYTE), "a")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    assert stat.S_IMODE(file_of(tmp_path / "folder", "a").stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_made_is_told_once_and_fails_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    files = EmbeddingFiles(tmp_path / "file" / "folder", MEGABYTE)
    cache = EmbeddingCache(0, files)
    for name in ("a", "b", "a"):
        assert cache.get_or_compute(key_of(name), lambda name=name: an_embedding(name)).key == key_of(name)
        files.flush()
    assert files.stats()["lost"] == 3
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(told) == [
        "Embeddings are not kept on disk: Not a directory",
        "Embeddings on disk cannot be read: Not a directory",
    ]


def test_a_full_disk_leaves_nothing_behind_and_is_told_once(tmp_path, caplog):
    """In a shell that may write files of one block only: a write fails halfway, as on a full disk."""
    script = f"""
import logging, resource, signal, sys
sys.path[:0] = {sys.path!r}
logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from sam.embeddings.test_embedding_files import *  # first: the limit holds for compiled modules, too
resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
files = EmbeddingFiles(Path({str(tmp_path)!r}), MEGABYTE)
keep(files, "a", "b")
print(files.stats()["lost"])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
keep(files, "c")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["2"]
    assert done.stderr.count("Embeddings are not kept on disk: File too large") == 1
    assert [file.name for file in tmp_path.iterdir()] == [file_of(tmp_path, "c").name]


def test_a_folder_that_is_read_only_still_gives_what_is_in_it(tmp_path, monkeypatch):
    keep(EmbeddingFiles(tmp_path, MEGABYTE), "a")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert EmbeddingFiles(tmp_path, MEGABYTE).get(key_of("a"), "cpu").key == key_of("a")


def test_a_writer_that_cannot_keep_up_loses_the_last_and_holds_nobody_up(tmp_path, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(disk, "pack", lambda embedding: go_on.wait(20) and pack(embedding))
    files = EmbeddingFiles(tmp_path, MEGABYTE)
    names = [f"image {number}" for number in range(QUEUE_LENGTH + 3)]
    started = time.monotonic()
    for name in names:
        files.put(an_embedding(name))
    assert time.monotonic() - started < 5
    assert files.stats()["lost"] == 3
    go_on.set()
    files.flush()
    assert [file_of(tmp_path, name).exists() for name in names] == [True] * QUEUE_LENGTH + [False] * 3
    keep(files, "a")
    assert kept(tmp_path) == {"a"}


def test_a_lossless_one_waits_for_the_writer_and_loses_none(tmp_path, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(disk, "pack", lambda embedding: go_on.wait(20) and pack(embedding))
    files = EmbeddingFiles(tmp_path, MEGABYTE, lossless=True)
    names = [f"image {number}" for number in range(QUEUE_LENGTH + 3)]
    putting = threading.Thread(target=lambda: [files.put(an_embedding(name)) for name in names])
    putting.start()
    putting.join(0.3)
    assert putting.is_alive()
    go_on.set()
    putting.join(20)
    files.flush()
    assert all(file_of(tmp_path, name).exists() for name in names) and files.stats()["lost"] == 0


def test_what_is_used_without_being_read_goes_last(tmp_path):
    files = EmbeddingFiles(tmp_path, MEGABYTE)
    keep(files, "a", "b", "c")
    size = file_of(tmp_path, "a").stat().st_size
    assert files.use(key_of("a")) == size and files.use(key_of("d")) is None
    file_of(tmp_path, "c").unlink()
    assert files.use(key_of("c")) is None and files.size(key_of("c")) is None
    small = EmbeddingFiles(tmp_path, int(2.5 * size))
    assert small.use(key_of("a")) == size
    keep(small, "e")
    assert kept(tmp_path) == {"a", "e"}


def run_python(code: str) -> "subprocess.Popen[str]":
    start = f"import sys\nsys.path[:0] = {sys.path!r}\nfrom pathlib import Path\n"
    code = start + "from sam.embeddings.test_embedding_files import *\n" + code
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_what_waits_at_the_end_of_the_process_is_written(tmp_path):
    code = f"""
files = EmbeddingFiles(Path({str(tmp_path)!r}), MEGABYTE)
for name in "abcdefghij":
    files.put(an_embedding(name))
"""
    with run_python(code) as process:
        assert process.wait(120) == 0
    assert kept(tmp_path) == set("abcdefghij")


@pytest.mark.slow
def test_two_processes_share_a_folder(tmp_path):
    """Both write and read the same files while they are removed for the bound; none ever reads a wrong one."""
    code = f"""
files, wrong, hits = EmbeddingFiles(Path({str(tmp_path)!r}), 5 * SIZE), 0, 0
disk._RESCAN_AFTER_S = 0
for turn in range(60):
    for name in "abcdefghij":
        found = files.get(key_of(name), "cpu")
        hits += found is not None
        wrong += found is not None and not torch.equal(found.features, an_embedding(name).features.half().float())
        if found is None:
            files.put(an_embedding(name))
    files.flush()
print(wrong, hits > 0, files.stats()["lost"])
"""
    processes = [run_python(code) for _ in range(2)]
    assert [process.communicate(timeout=200)[0].split() for process in processes] == [["0", "True", "0"]] * 2
    keep(EmbeddingFiles(tmp_path, 5 * SIZE), "a")
    files = list(tmp_path.iterdir())
    assert all(file.suffix == ".embedding" for file in files)
    assert sum(file.stat().st_size for file in files) <= 5 * SIZE


def test_a_process_killed_while_it_writes_leaves_only_whole_files(tmp_path):
    code = f"""
files = EmbeddingFiles(Path({str(tmp_path)!r}), MEGABYTE)
while True:
    keep(files, *"abcdefghij")
    print("round", flush=True)
"""
    with run_python(code) as process:
        assert process.stdout and process.stdout.readline() == "round\n"
        process.kill()
    files = EmbeddingFiles(tmp_path, MEGABYTE)
    assert all(files.get(key_of(name), "cpu") for name in "abcdefghij")


def test_the_folder_can_be_deleted_while_it_is_in_use(tmp_path):
    files = EmbeddingFiles(tmp_path / "folder", MEGABYTE)
    keep(files, "a", "b")
    shutil.rmtree(tmp_path / "folder")
    assert files.get(key_of("a"), "cpu") is None
    keep(files, "c")
    assert kept(tmp_path / "folder") == {"c"}
