import threading

import pytest

from lib.server.admission import Admission, BusyError


def test_one_more_than_allowed_is_refused_until_one_leaves():
    admission = Admission(2)
    with admission.inside(), admission.inside():
        assert admission.count == 2
        with pytest.raises(BusyError, match="2 segmentations"), admission.inside():
            pytest.fail("a third one was let in")
        assert admission.count == 2
    assert admission.count == 0
    with admission.inside():
        assert admission.count == 1


def test_who_was_accepted_before_is_let_in_and_counts():
    admission = Admission(1)
    for _ in range(3):
        admission.enter(unconditionally=True)
    assert admission.count == 3
    with pytest.raises(BusyError):
        admission.enter()


def test_who_fails_leaves():
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError), admission.inside():
        raise ZeroDivisionError
    assert admission.count == 0


def test_never_more_than_allowed_are_in_among_threads():
    admission, most, lock = Admission(3), [0], threading.Lock()

    def visit() -> None:
        for _ in range(300):
            try:
                with admission.inside(), lock:
                    most[0] = max(most[0], admission.count)
            except BusyError:
                pass

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 1 <= most[0] <= 3 and admission.count == 0


def test_nobody_has_all_places():
    admission = Admission(4)
    for _ in range(3):
        admission.enter("anna")
    with pytest.raises(BusyError, match="3 segmentations of yours"):
        admission.enter("anna")
    with admission.inside("ben"), pytest.raises(BusyError, match="4 segmentations are being"):
        admission.enter("carl")
    admission.leave("anna")
    admission.enter("anna")
    assert admission.count == 3


def test_one_place_is_for_whoever_comes_first():
    admission = Admission(1)
    with admission.inside("anna"), pytest.raises(BusyError):
        admission.enter("ben")
    with admission.inside("ben"):
        assert admission.count == 1
