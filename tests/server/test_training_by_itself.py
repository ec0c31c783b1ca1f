"""When a server starts a training by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.dicomweb.connection import DicomWebUnreachableError
from lib.learning.job import TrainingRequestError
from lib.server.training import TrainingByItself


class Hospital:
    """Accepted labels, whether nobody segments, and the trainings that were started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.accepted, self.is_idle, self.started = folder, 0, True, 0
        self.refusal: Exception | None = None
        self.unreachable = False

    def server(self, after: int = 5) -> TrainingByItself:
        """Return what a server that has just been started looks with."""
        return TrainingByItself(
            after,
            accepted=self.count,
            start=self.start,
            is_idle=lambda: self.is_idle,
            state=self.folder / "learned" / "accepted.json",
        )

    def count(self) -> int:
        if self.unreachable:
            raise DicomWebUnreachableError("the DICOMweb server does not respond")
        return self.accepted

    def start(self) -> None:
        if self.refusal:
            raise self.refusal
        self.started += 1


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def test_it_starts_after_so_many_new_labels_and_then_after_as_many_again(hospital: Hospital) -> None:
    server = hospital.server()
    for hospital.accepted, started in ((0, 0), (4, 0), (5, 1), (9, 1), (10, 2)):
        server.look()
        assert hospital.started == started


def test_it_remembers_over_a_restart(hospital: Hospital) -> None:
    hospital.accepted = 5
    hospital.server().look()
    hospital.server().look()
    assert hospital.started == 1


def test_it_waits_while_somebody_segments(hospital: Hospital) -> None:
    server = hospital.server()
    hospital.accepted, hospital.is_idle = 5, False
    server.look()
    assert hospital.started == 0
    hospital.is_idle = True
    server.look()
    assert hospital.started == 1


def test_labels_that_were_removed_do_not_count(hospital: Hospital) -> None:
    server = hospital.server()
    for hospital.accepted in (10, 2, 6):
        server.look()
    assert hospital.started == 1
    hospital.accepted = 7
    server.look()
    assert hospital.started == 2


def test_it_goes_on_when_a_training_is_not_possible_or_labels_cannot_be_counted(hospital: Hospital) -> None:
    server = hospital.server()
    hospital.accepted, hospital.refusal = 5, TrainingRequestError("labels of one study")
    server.look()
    hospital.refusal, hospital.unreachable = None, True
    server.look()
    assert hospital.started == 0
    hospital.unreachable = False
    server.look()
    assert hospital.started == 1
