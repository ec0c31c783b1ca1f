"""What a session tells its client of the mask: after any sequence of calls, and of lost answers, both have the same."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from lib.base.clock import TimeLimitError
from lib.imaging.decoding.memory_budget import MemoryBudget
from lib.imaging.image import ImageTooLargeError
from lib.imaging.limits import Limits
from lib.sam.prompts import PromptError
from lib.sam.volume.interactions import Point
from lib.server.http.errors import InteractionError
from lib.server.interactive import marked_image as module
from lib.server.interactive.marked_image import SentImage
from lib.server.nninteractive.container import pack, read
from lib.server.nninteractive.session import Answer, Session, covered_by_difference

SHAPE = (3, 4, 5)


class Marks:
    """An annotation whose mask can be foretold: foreground sets a voxel and the next along axis 2, background clears.

    A step on the last voxel fails. With no time for it, the last step is found only by the next call.
    """

    default_axis = 0

    def __init__(self, shape: tuple[int, int, int], spacing: Any, picture: Any) -> None:
        self.shape = shape
        self.steps: list[Point | np.ndarray] = []
        self.undone: list[Point | np.ndarray] = []
        self.is_complete = True
        self.nbytes = 0

    def add(self, point: Point) -> None:
        if point.coordinates == (0, 0, 0) and not point.is_foreground:
            raise PromptError("not there")
        self.steps.append(point)
        self.undone.clear()

    def start_from(self, mask: np.ndarray, *, refine: bool = False) -> None:
        self.steps.append(mask)

    def undo(self) -> bool:
        if self.steps:
            self.undone.append(self.steps.pop())
            return True
        return False

    def redo(self) -> bool:
        if self.undone:
            self.steps.append(self.undone.pop())
            return True
        return False

    def reset(self) -> None:
        self.steps.clear()
        self.undone.clear()

    def counts(self) -> dict[str, int]:
        return {"point": sum(isinstance(step, Point) for step in self.steps)}

    def update(self, predictor: Any, *, through_volume: bool = True, seconds: float = math.inf) -> np.ndarray:
        last = tuple(size - 1 for size in self.shape)
        if any(isinstance(step, Point) and step.coordinates == last for step in self.steps):
            raise TimeLimitError("timed out")
        self.is_complete = seconds > 0 or not self.steps
        self.nbytes = 10 * len(self.steps)
        return self.mask(self.steps if self.is_complete else self.steps[:-1])

    def mask(self, steps: list[Point | np.ndarray]) -> np.ndarray:
        mask = np.zeros(self.shape, bool)
        for step in steps:
            if isinstance(step, Point):
                i, j, k = step.coordinates
                mask[i, j, k : k + 2] = step.is_foreground
            else:
                mask = step.copy()
        return mask


@dataclass
class Client:
    """A client with its array, which it changes as the published one does."""

    session: Session
    array: np.ndarray = field(default_factory=lambda: np.zeros(SHAPE, np.uint8))

    def take(self, answer: Answer, *, is_lost: bool = False) -> Answer:
        self.session.answer_sent(is_lost=is_lost)
        if is_lost or answer.bounds is None:
            return answer
        place = tuple(slice(low, high) for low, high in answer.bounds)
        assert answer.values is not None and answer.values.dtype == np.uint8
        assert (self.array[place] != answer.values).any(), "a box without a change"
        self.array[place] = answer.values
        return answer

    def start_from(self, mask: np.ndarray, *, run: bool) -> Answer:
        self.array[:] = mask
        return self.session.start_from(packed(mask), run=run, seconds=9)

    @property
    def marks(self) -> Marks:
        return self.session._marked.annotation


def packed(array: np.ndarray):
    return read(pack(array), max_values=1 << 20)


def image(shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (1, *shape)).astype(dtype)


def session_of(memory: int = 1 << 20, **limits: int) -> Session:
    limit = Limits(**limits)
    return Session("t", lambda: None, memory=MemoryBudget(memory), limits=limit, ahead=0)  # type: ignore[arg-type,return-value]


@pytest.fixture(autouse=True)
def marks(monkeypatch):
    monkeypatch.setattr(module, "Annotation", Marks)


@pytest.fixture
def client() -> Client:
    session = session_of()
    session.set_image(packed(image()), (1, 1, 1))
    session.set_target_buffer(SHAPE, "uint8")
    return Client(session)


def point(i: int, j: int, k: int, is_foreground: bool = True) -> Point:
    return Point((i, j, k), is_foreground)


def test_an_answer_is_the_box_around_what_has_changed(client):
    answer = client.take(client.session.add(point(1, 2, 3), run=True, seconds=9))
    assert (answer.ran, answer.bounds) == (True, ((1, 2), (2, 3), (3, 5)))
    answer = client.take(client.session.add(point(1, 2, 3), run=True, seconds=9))
    assert (answer.ran, answer.bounds) == (True, None)
    answer = client.take(client.session.add(point(2, 1, 0), run=True, seconds=9))
    assert answer.bounds == ((2, 3), (1, 2), (0, 2))
    assert np.argwhere(client.array).tolist() == [[1, 2, 3], [1, 2, 4], [2, 1, 0], [2, 1, 1]]


def test_prompts_wait_for_the_mask_until_it_is_asked_for_and_are_undone_one_by_one(client):
    session = client.session
    assert not session.predict(seconds=9).ran
    client.take(session.add(point(0, 0, 0), run=True, seconds=9))
    for k in range(2):
        assert not client.take(session.add(point(1, k, 0), run=False, seconds=9)).ran
    undone = client.take(session.undo(seconds=9))
    assert (undone.ran, undone.bounds) == (True, None)
    assert client.take(session.predict(seconds=9)).bounds == ((1, 2), (0, 1), (0, 2))
    assert not session.predict(seconds=9).ran
    assert client.take(session.undo(seconds=9)).bounds == ((1, 2), (0, 1), (0, 2))
    assert client.take(session.undo(seconds=9)).bounds == ((0, 1), (0, 1), (0, 2))
    assert not client.take(session.undo(seconds=9)).ran and not client.array.any()


def test_what_fails_leaves_everything_as_it_was(client):
    session = client.session
    client.take(session.add(point(1, 1, 1), run=True, seconds=9))
    session.add(point(2, 0, 0), run=False, seconds=9)
    before = list(client.marks.steps)
    for wrong, error in ((point(2, 3, 4), TimeLimitError), (point(0, 0, 0, False), PromptError)):
        with pytest.raises(error):
            session.add(wrong, run=True, seconds=9)
        assert client.marks.steps == before
    session.add(point(2, 3, 4), run=False, seconds=9)
    with pytest.raises(TimeLimitError):
        session.predict(seconds=9)
    assert len(client.marks.steps) == 3 and session.undo(seconds=9).ran
    assert client.take(session.predict(seconds=9)).bounds == ((2, 3), (0, 1), (0, 2))


def test_an_undo_that_fails_can_be_made_again(client):
    session = client.session
    for where in (point(2, 3, 4), point(1, 1, 1)):
        session.add(where, run=False, seconds=9)
    client.session._marked.waiting = 0  # as if both had been answered
    with pytest.raises(TimeLimitError):
        session.undo(seconds=9)
    assert [step.coordinates for step in client.marks.steps] == [(2, 3, 4), (1, 1, 1)]


def test_a_mask_to_begin_with_is_the_client_s_already(client):
    session = client.session
    client.take(session.add(point(0, 0, 0), run=True, seconds=9))
    mask = np.zeros(SHAPE, np.uint8)
    mask[2] = 7
    assert not client.take(client.start_from(mask, run=False)).ran
    client.array[:] = client.array != 0
    answer = client.take(session.add(point(0, 1, 1), run=True, seconds=9))
    assert answer.bounds == ((0, 1), (1, 2), (1, 3))
    assert client.array.sum() == 20 + 2
    client.take(session.undo(seconds=9))
    assert client.take(session.undo(seconds=9)).bounds == ((0, 3), (0, 4), (0, 5))
    assert client.array.sum() == 2
    with pytest.raises(InteractionError, match="shape"):
        session.start_from(packed(mask[:2]), run=False, seconds=9)


def test_a_mask_whose_refinement_fails_stays_as_it_is(client, monkeypatch):
    fails = True

    def update(self: Marks, predictor: Any, **_: Any) -> np.ndarray:
        if fails:
            raise TimeLimitError("timed out")
        return self.mask(self.steps)

    monkeypatch.setattr(Marks, "update", update)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1] = 1
    with pytest.raises(TimeLimitError):
        client.start_from(mask, run=True)
    client.session.answer_sent(is_lost=True)
    fails = False
    answer = client.take(client.session.add(point(0, 0, 0), run=True, seconds=9))
    assert answer.bounds == ((0, 1), (0, 1), (0, 2)) and client.array.sum() == 22


def test_a_lost_answer_is_told_again_by_the_next(client):
    session = client.session
    client.take(session.add(point(0, 0, 0), run=True, seconds=9), is_lost=True)
    assert not client.array.any()
    assert client.take(session.predict(seconds=9)).bounds == ((0, 1), (0, 1), (0, 2))
    client.take(session.add(point(2, 2, 2), run=True, seconds=9), is_lost=True)
    answer = client.take(session.add(point(2, 2, 0), run=True, seconds=9))
    assert answer.bounds == ((2, 3), (2, 3), (0, 4))


def test_what_was_not_found_in_time_is_told_by_the_next_answer(client):
    session = client.session
    assert client.take(session.add(point(0, 0, 0), run=True, seconds=0)).bounds is None and session.is_behind
    session.go_on()
    assert client.take(session.predict(seconds=9)).bounds == ((0, 1), (0, 1), (0, 2)) and not session.is_behind
    assert not session.predict(seconds=9).ran


def test_nothing_is_made_without_an_image_and_an_array_for_the_mask():
    session = session_of()
    session.reset()
    assert not session.undo(seconds=9).ran and session.image_sha256 is None and session.counts() == {}
    calls = (
        lambda: session.add(point(0, 0, 0), run=True, seconds=9),
        lambda: session.start_from(packed(np.zeros(SHAPE, np.uint8)), run=False, seconds=9),
        lambda: session.predict(seconds=9),
        lambda: session.shape,
    )
    for call in calls:
        with pytest.raises(InteractionError, match="set_image"):
            call()
    session.set_image(packed(image()), (1, 1, 1))
    for call in calls:
        with pytest.raises(InteractionError, match="set_target_buffer"):
            call()
    assert not session.undo(seconds=9).ran
    with pytest.raises(InteractionError, match=r"the buffer has the shape \[3, 5, 4\]; the image has \[3, 4, 5\]"):
        session.set_target_buffer((3, 5, 4), "uint8")


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 5), (1, 3, 4, 0)])
def test_an_image_is_one_channel_of_a_volume(shape):
    with pytest.raises(InteractionError, match=r"one channel of a volume, \[1, n0, n1, n2\]"):
        session_of().set_image(packed(np.zeros(shape, np.int16)), (1, 1, 1))


def test_there_are_no_more_prompts_than_allowed():
    session = session_of(max_prompts=2)
    session.set_image(packed(image()), (1, 1, 1))
    session.set_target_buffer(SHAPE, "uint8")
    for k in range(2):
        session.add(point(0, 0, k), run=False, seconds=9)
    with pytest.raises(PromptError, match="at most 2"):
        session.add(point(0, 0, 2), run=False, seconds=9)


def test_memory_is_held_for_an_image_and_free_when_another_takes_its_place():
    session = session_of(memory=60 * (2 + 3) + 25)
    session.set_image(packed(image()), (1, 1, 1))
    assert session.memory.taken == 60 * 5
    session.set_image(packed(image()), (1, 1, 1))
    session.set_target_buffer(SHAPE, "uint8")
    for k in range(2):
        session.add(point(0, 0, k), run=True, seconds=9)
        assert session.memory.taken == 60 * 5 + 10 * (k + 1)
    with pytest.raises(ImageTooLargeError, match="nninteractive_max_mb"):
        session.add(point(0, 0, 2), run=True, seconds=9)
    assert session.counts() == {"point": 2}
    with pytest.raises(ImageTooLargeError):
        session.set_image(packed(image((30, 4, 5))), (1, 1, 1))
    assert session.memory.taken == 0 and session.image_sha256 is None


def test_the_same_image_has_the_same_digest_and_another_type_or_shape_another():
    digests = []
    for sent in (image(), image(), image(dtype=np.uint16), image().reshape(1, 4, 3, 5)):
        session = session_of()
        session.set_image(packed(sent), (1, 1, 1))
        digests.append(session.image_sha256)
    assert digests[0] == digests[1] and len(set(digests)) == 3 and len(digests[0]) == 64


OPS = st.one_of(
    st.tuples(
        st.just("add"),
        st.tuples(*(st.integers(0, size - 1) for size in SHAPE)),
        st.booleans(),
        st.booleans(),
        st.sampled_from((9.0, 0.0)),
    ),
    st.tuples(st.just("undo")),
    st.tuples(st.just("predict")),
    st.tuples(st.just("reset")),
    st.tuples(st.just("go on")),
    st.tuples(st.just("start"), st.integers(0, 2**60 - 1), st.booleans()),
)


def do(client: Client, op: tuple[Any, ...]) -> Answer | None:
    session = client.session
    match op:
        case ("add", where, is_foreground, run, seconds):
            return session.add(Point(where, is_foreground), run=run, seconds=seconds)
        case ("start", bits, run):
            mask = np.array([bits >> n & 1 for n in range(60)], np.uint8).reshape(SHAPE)
            return client.start_from(mask, run=run)
        case ("undo",):
            return session.undo(seconds=9)
        case ("predict",):
            return session.predict(seconds=9)
        case ("reset",):
            client.array[:] = 0
            session.reset()
        case _:
            with suppress(TimeLimitError):
                session.go_on()
    return None


@given(st.lists(st.tuples(OPS, st.booleans()), max_size=14))
@settings(max_examples=300, deadline=None)
def test_after_any_sequence_the_client_has_what_the_server_has(ops):
    session = session_of()
    session.set_image(packed(image()), (1, 1, 1))
    session.set_target_buffer(SHAPE, "uint8")
    client = Client(session)
    for op, is_lost in ops:
        try:
            answer = do(client, op)
        except (PromptError, TimeLimitError):
            session.answer_sent(is_lost=True)
        else:
            if answer is not None:
                client.take(answer, is_lost=is_lost)
        assert np.array_equal(client.array.astype(bool), session._marked.told)
    while any(isinstance(step, Point) and step.coordinates == (2, 3, 4) for step in client.marks.steps):
        client.marks.undo()
    client.take(session.add(point(0, 0, 0), run=True, seconds=9))
    assert np.array_equal(client.array.astype(bool), client.marks.mask(client.marks.steps))


@given(st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1))
@settings(deadline=None)
def test_the_box_of_a_difference_is_tight(a, b):
    before, after = (np.array([bits >> n & 1 for n in range(24)], bool).reshape(4, 3, 2) for bits in (a, b))
    where = np.argwhere(before != after)
    bounds = covered_by_difference(before, after)
    if not len(where):
        assert bounds is None
    else:
        assert bounds == tuple(zip(where.min(axis=0).tolist(), (where.max(axis=0) + 1).tolist(), strict=True))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.bool_, np.float16, np.float32, np.float64, np.uint64])
def test_a_picture_of_any_type_is_rgb_with_the_later_axis_as_its_columns(dtype):
    values = np.zeros((4, 6, 8))
    values[1:3, 2:5, 1:7] = 1 if dtype == np.bool_ else 150
    sent = SentImage(values.astype(dtype))
    for axis, k in ((0, 1), (1, 2), (2, 1)):
        picture = sent.picture(axis, k)
        plane = np.take(values, k, axis)
        assert picture.dtype == np.uint8 and picture.shape == (*plane.shape, 3)
        if dtype != np.bool_:  # which is as dark as 8-bit values of 1 are
            assert np.array_equal(picture[..., 0] > 127, plane > 0)


def test_what_is_no_number_is_as_dark_as_the_darkest():
    values = np.linspace(0, 100, 4 * 6 * 8).reshape(4, 6, 8)
    values[2, 3, 4:7] = np.nan, np.inf, -np.inf
    picture = SentImage(values).picture(0, 2)
    assert (picture[3, 4:7] == 0).all() and picture[3, 3, 0] > 0
    for extreme in (1e308, -1e308, 3e38):
        values[1, 1, 1] = extreme
        assert SentImage(values).picture(0, 1).shape == (6, 8, 3)
    assert SentImage(np.full((2, 3, 4), np.nan)).picture(2, 1).shape == (2, 3, 3)


def test_hounsfield_units_get_the_window_of_soft_tissue():
    values = np.full((4, 16, 16), -1000, np.int16)
    values[:, 3:13, 3:13] = 40
    values[:, 6:9, 6:9] = 700
    picture = SentImage(values).picture(0, 1)[..., 0]
    assert (picture[0, 0], picture[4, 4], picture[7, 7]) == (0, 128, 255)
