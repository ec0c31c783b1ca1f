"""Facts of the current request."""

from __future__ import annotations

import contextvars
import threading

import pytest

from lib.base.request_record import RequestRecord, current_record, note, use_record


def test_facts_go_into_the_current_record_and_nowhere_else():
    outer, inner = RequestRecord(), RequestRecord()
    with use_record(outer):
        note(user="anna", model="sam_tiny")
        with use_record(inner):
            note(model="sam_vit_b", prompts={"rectangles": 2})
        note(timestamp="1.000000")
    note(user="nobody")
    assert (outer.user, outer.model, outer.timestamp, outer.prompts) == ("anna", "sam_tiny", "1.000000", {})
    assert (inner.user, inner.model, inner.prompts) == (None, "sam_vit_b", {"rectangles": 2})
    assert current_record() is None


def test_a_fact_that_a_record_does_not_have_is_a_mistake_also_without_a_record():
    with pytest.raises(TypeError, match="file_name"):
        note(file_name="x.dcm")


def test_a_thread_with_a_copy_of_the_context_writes_into_the_same_record():
    with use_record(RequestRecord()) as record:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(lambda: note(user="anna"),))
        thread.start()
        thread.join()
    assert record.user == "anna"


def test_every_request_has_an_id_of_its_own():
    assert len({RequestRecord().request_id for _ in range(1000)}) == 1000
