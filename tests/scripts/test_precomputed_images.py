"""What ``scripts/precompute`` remembers of images that are done."""

from __future__ import annotations

from pathlib import Path

import pytest

from precomputed_images import JOURNAL, Done, Journal, name_of

KEYS = {name: name * 64 for name in "abcdef"}
FIRST = Done(name_of("studies", "first.png", "tiny", "auto"), "1", 20, [KEYS["a"], KEYS["b"]])
SECOND = Done(name_of("studies", "second.png", "tiny", "auto"), "2", 10, [KEYS["c"]])


@pytest.fixture
def there() -> set[str]:
    return set(KEYS.values())


def opened(folder: Path, there: set[str]) -> Journal:
    return Journal(folder, there.__contains__)


def test_what_is_done_is_known_to_the_next_call(tmp_path, there):
    journal = opened(tmp_path, there)
    assert journal.find(FIRST.what) is None
    journal.add(FIRST)
    journal.add(SECOND)
    assert (tmp_path / JOURNAL).stat().st_mode & 0o777 == 0o600
    for known in (journal, opened(tmp_path, there)):
        assert (known.find(FIRST.what), known.find(SECOND.what)) == (FIRST, SECOND)


def test_a_name_tells_nothing_and_differs_in_each_part(tmp_path, there):
    names = {name_of(*parts) for parts in (("a", "b", "c", "d"), ("ab", "", "c", "d"), ("a", "b", "cd", ""))}
    assert len(names) == 3
    opened(tmp_path, there).add(Done(name_of("/data", "DOE^JANE.nii", "tiny", "auto"), "1", 1, []))
    assert "DOE" not in (tmp_path / JOURNAL).read_text()
    assert name_of("/data", "not \udcff text", "tiny", "auto")


@pytest.mark.parametrize("length", [1, 30, -1])
def test_a_line_that_was_not_written_to_its_end_is_left_out_and_does_not_harm_the_next(tmp_path, there, length):
    journal = opened(tmp_path, there)
    for done in (FIRST, FIRST, FIRST):
        journal.add(done)
    whole = (tmp_path / JOURNAL).read_bytes()
    journal.add(SECOND)
    last = (tmp_path / JOURNAL).read_bytes()[len(whole) :]
    (tmp_path / JOURNAL).write_bytes(whole[: len(whole) // 3] + last[:length])
    again = opened(tmp_path, there)
    assert again.find(FIRST.what) == FIRST
    assert (again.find(SECOND.what) is None) == (length != -1), "but for its end of line it was there"
    again.add(SECOND)
    assert opened(tmp_path, there).find(SECOND.what) == SECOND


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"what": 1}', '{"what":"a","state":"","bytes":"x","keys":[]}', "\0", "9"]
)
def test_a_damaged_line_is_left_out(tmp_path, there, line):
    opened(tmp_path, there).add(FIRST)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write(line + "\n")
    journal = opened(tmp_path, there)
    journal.add(SECOND)
    assert opened(tmp_path, there).find(FIRST.what) == FIRST
    assert opened(tmp_path, there).find(SECOND.what) == SECOND


def test_an_image_whose_embedding_is_gone_is_not_done(tmp_path, there):
    journal = opened(tmp_path, there)
    journal.add(FIRST)
    journal.add(SECOND)
    there.remove(KEYS["b"])
    assert opened(tmp_path, there).find(FIRST.what) is None
    assert opened(tmp_path, there).find(SECOND.what) == SECOND


def test_it_does_not_grow_for_ever(tmp_path, there):
    journal = opened(tmp_path, there)
    for n in range(100):
        journal.add(Done(FIRST.what, str(n), 20, FIRST.keys))
    journal.add(SECOND)
    again = opened(tmp_path, there)
    assert (tmp_path / JOURNAL).read_text().count("\n") == 2
    found = again.find(FIRST.what)
    assert found is not None and found.state == "99" and again.find(SECOND.what) == SECOND


def test_without_a_folder_nothing_is_known_and_writing_says_so(tmp_path, there):
    (tmp_path / "file").write_text("no folder")
    journal = opened(tmp_path / "file", there)
    assert journal.find(FIRST.what) is None
    with pytest.raises(OSError, match="Not a directory"):
        journal.add(FIRST)
