import os
import shutil
import threading
import weakref

import numpy as np
import pytest

from lib.imaging.image import ImageChangedError, ImageError, MedicalImage
from lib.imaging.image_cache import ImageCache, cached_per_image, content_key, image_sha256


def an_image(kilobytes: int = 1) -> MedicalImage:
    return MedicalImage(frames=np.zeros((1, 1, kilobytes * 512), np.int16))


class Reader:
    """Reader that counts how often it reads each file."""

    def __init__(self, kilobytes: int = 1) -> None:
        self.read: list[str] = []
        self.kilobytes = kilobytes

    def __call__(self, path):
        self.read.append(path.name)
        return an_image(self.kilobytes)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image.nii"
    path.write_bytes(b"one")
    return path


def test_a_file_is_read_once_until_it_changes(file):
    cache, reader = ImageCache(), Reader()
    first = cache.get_or_read(file, reader)
    assert cache.get_or_read(file, reader) is first and reader.read == ["image.nii"]
    os.utime(file, (1, 1))
    assert cache.get_or_read(file, reader) is first
    file.write_bytes(b"other length")
    assert cache.get_or_read(file, reader) is not first and len(reader.read) == 2


def test_a_file_that_pretends_to_be_as_old_as_the_one_before_is_another(file):
    cache, reader = ImageCache(), Reader()
    cache.get_or_read(file, reader)
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    cache.get_or_read(file, reader)
    assert len(reader.read) == 2


def test_what_is_written_to_while_it_is_read_is_not_an_image(file):
    cache, reader = ImageCache(), Reader()

    def interrupted(path):
        image = reader(path)
        path.write_bytes(b"longer than before")
        return image

    with pytest.raises(ImageChangedError, match="changed while it was read"):
        cache.get_or_read(file, interrupted)
    assert cache.get_or_read(file, reader)


def test_a_link_and_a_copy_of_a_file_are_the_same_image(file, tmp_path):
    cache, reader = ImageCache(), Reader()
    first = cache.get_or_read(file, reader)
    os.link(file, tmp_path / "link")
    shutil.copy(file, tmp_path / "copy")
    for name in ("image.nii", "link", "copy"):
        assert cache.get_or_read(tmp_path / name, reader) is first
    assert cache.get_or_read(tmp_path / "copy", reader, content_key(file)) is first


def test_a_series_is_known_by_all_of_its_files(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"a")
    cache, reader = ImageCache(), Reader()
    cache.get_or_read(series, reader)
    cache.get_or_read(series, reader)
    (series / "2.dcm").write_bytes(b"b")
    cache.get_or_read(series, reader)
    assert reader.read == ["series", "series"]


def test_the_order_of_a_series_files_is_part_of_its_content_but_not_of_its_hash(tmp_path):
    cache, reader = ImageCache(), Reader()
    for folder, names in (("one", "ab"), ("again", "cd"), ("other", "ba")):
        (tmp_path / folder).mkdir()
        for name, content in zip(names, (b"first", b"second"), strict=True):
            (tmp_path / folder / name).write_bytes(content)
    one, again, other = (cache.get_or_read(tmp_path / folder, reader) for folder in ("one", "again", "other"))
    assert one is again and one is not other
    assert len({image_sha256(tmp_path / folder) for folder in ("one", "again", "other")}) == 1
    assert cache.find(content_key(tmp_path / "other")) is other and cache.find("a" * 64) is None


def test_the_least_recently_used_go_first_and_what_is_too_large_is_not_kept(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(path.name.encode())
    cache, reader = ImageCache(max_bytes=2048), Reader()
    for index in (0, 1, 0, 2, 0, 2, 1):
        cache.get_or_read(paths[index], reader)
    assert reader.read == ["a", "b", "c", "b"] and cache.stats()["bytes"] == 2048
    large = Reader(kilobytes=4)
    paths[0].write_bytes(b"larger")
    for _ in range(2):
        cache.get_or_read(paths[0], large)
    assert large.read == ["a", "a"] and cache.stats()["bytes"] == 0


def test_what_is_told_of_an_image_is_remembered_and_goes_with_it():
    told: list[MedicalImage] = []

    class Told:
        pass

    @cached_per_image
    def tell(image: MedicalImage) -> Told:
        told.append(image)
        return Told()

    image, other = an_image(), an_image()
    first = tell(image)
    assert tell(image) is first and tell(other) is not first and told == [image, other]
    left = weakref.ref(first)
    told.clear()
    del first
    assert left() is not None
    del image
    assert left() is None


def test_nobody_can_write_into_what_others_get(file):
    image = ImageCache().get_or_read(file, Reader())
    with pytest.raises(ValueError, match="read-only"):
        image.frames[0, 0, 0] = 1


def test_what_cannot_be_read_is_not_kept(file, tmp_path):
    cache = ImageCache()

    def broken(path):
        raise ImageError("broken")

    for _ in range(2):
        with pytest.raises(ImageError, match="broken"):
            cache.get_or_read(file, broken)
    assert cache.get_or_read(file, Reader())
    with pytest.raises(FileNotFoundError):
        cache.get_or_read(tmp_path / "nowhere", Reader())


def test_requests_at_the_same_time_wait_for_one_reading(file):
    cache, started, go_on = ImageCache(), threading.Event(), threading.Event()
    read = []

    def slow(path):
        read.append(path)
        started.set()
        assert go_on.wait(30)
        return an_image()

    got: list[MedicalImage] = []
    threads = [threading.Thread(target=lambda: got.append(cache.get_or_read(file, slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(got) == 4 and len({id(image) for image in got}) == 1 and len(read) == 1


def test_a_file_of_known_content_is_read_once_whatever_its_name(tmp_path):
    cache, read = ImageCache(), Reader()
    for name in ("first upload", "second upload"):
        (tmp_path / name).write_bytes(b"the same")
    first = cache.get_or_read(tmp_path / "first upload", read, "a" * 64)
    assert cache.get_or_read(tmp_path / "second upload", read, "a" * 64) is first
    assert cache.get_or_read(tmp_path / "second upload", read, "b" * 64) is not first
    assert cache.stats()["entries"] == 2


def test_an_image_whose_file_is_gone_is_not_kept(tmp_path):
    cache, read = ImageCache(), Reader()
    series = tmp_path / "series"
    series.mkdir()
    places = [tmp_path / "a.nii", tmp_path / "b.nii", series / "1.dcm"]
    for place in places:
        place.write_bytes(place.name.encode())
    images = [weakref.ref(cache.get_or_read(place, read)) for place in (*places[:2], series)]
    uploaded = cache.get_or_read(places[0], read, "a" * 64)
    cache.forget_gone()
    assert all(image() is not None for image in images) and cache.stats()["entries"] == 4
    for place in (places[0], *places[2:]):
        place.unlink()
    series.rmdir()
    cache.forget_gone()
    assert [image() is not None for image in images] == [False, True, False]
    assert cache.stats() == {"hits": 0, "misses": 4, "entries": 2, "bytes": 2048}
    assert cache.get_or_read(places[1], read, "a" * 64) is uploaded
