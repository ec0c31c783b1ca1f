"""SHA-256 of image files."""

from __future__ import annotations

import hashlib
import io
import os

from lib.base.files import sha256_of
from lib.imaging import image_cache
from lib.imaging.image_cache import image_sha256


def test_a_file_has_the_sum_of_its_bytes(tmp_path):
    content = os.urandom(3 * 2**20 + 17)
    (tmp_path / "image").write_bytes(content)
    assert image_sha256(tmp_path / "image") == hashlib.sha256(content).hexdigest()


def test_an_upload_has_the_same_sum_wherever_it_was_read_to_and_can_be_read_again():
    upload = io.BytesIO(b"some image")
    upload.read(3)
    assert sha256_of(upload) == hashlib.sha256(b"some image").hexdigest()
    assert upload.read() == b"some image"


def test_a_series_has_one_sum_whatever_its_files_are_called(tmp_path):
    for folder, names in (("a", ("1.dcm", "2.dcm")), ("b", ("y", "x"))):
        (tmp_path / folder).mkdir()
        for name, content in zip(names, (b"first", b"second"), strict=True):
            (tmp_path / folder / name).write_bytes(content)
    first = image_sha256(tmp_path / "a")
    assert first == image_sha256(tmp_path / "b")
    (tmp_path / "b" / "x").write_bytes(b"Second")
    assert first != image_sha256(tmp_path / "b")


def test_an_unchanged_file_is_read_once_and_a_changed_one_again(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(image_cache, "sha256_of", lambda file: read.append(file.name) or sha256_of(file))
    image = tmp_path / "image"
    image.write_bytes(b"one")
    first = image_sha256(image)
    assert image_sha256(image) == first and len(read) == 1
    image.write_bytes(b"two")
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert image_sha256(image) == hashlib.sha256(b"two").hexdigest() and len(read) == 2


def test_an_image_that_pretends_to_be_as_old_as_the_one_before_is_read_again(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(b"one")
    before, first = image.stat(), image_sha256(image)
    image.write_bytes(b"two")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert image_sha256(image) != first
