import threading

import numpy as np

from lib.infers.click_memory import ClickMemory
from lib.sam.prompts import Prompts
from lib.sam.refinement import EarlierObject


def an_answer(level: float = 0.0) -> EarlierObject:
    prompts = Prompts.from_clicks([[1, 2]])
    return EarlierObject(prompts, np.ones(1, np.float32), np.full((1, 256, 256), level, np.float32))


def test_the_last_answer_of_each_client_picture_and_label_is_kept():
    memory = ClickMemory()
    keys = [("ann", "a", "liver"), ("bob", "a", "liver"), ("ann", "b", "liver"), ("ann", "a", "lung")]
    answers = [an_answer(level) for level in range(4)]
    for key, answer in zip(keys, answers, strict=True):
        assert memory.recall(key) == ()
        memory.remember(key, answer)
    assert [memory.recall(key) for key in keys] == [(answer,) for answer in answers]
    newer = an_answer()
    memory.remember(keys[0], newer)
    assert memory.recall(keys[0]) == (newer,) and memory.recall(keys[1]) == (answers[1],)


def test_several_answers_are_kept_in_their_order_if_asked_for():
    memory = ClickMemory(3, per_client=4)
    answers = [an_answer(level) for level in range(5)]
    memory.remember(("ann", "b", ""), answers[0])
    for answer in answers:
        memory.remember(("ann", "a", ""), answer)
    assert memory.recall(("ann", "a", "")) == tuple(answers[2:]) and memory.recall(("ann", "b", "")) == (answers[0],)
    memory.remember(("ann", "b", ""), answers[1])
    assert memory.recall(("ann", "a", "")) == () and memory.recall(("ann", "b", "")) == tuple(answers[:2])


def test_a_client_s_least_recently_used_are_forgotten():
    memory = ClickMemory(per_client=2)
    for picture in ("a", "b"):
        memory.remember(("ann", picture, ""), an_answer())
    memory.recall(("ann", "a", ""))
    memory.remember(("ann", "c", ""), an_answer())
    assert [memory.recall(("ann", picture, "")) != () for picture in "abc"] == [True, False, True]


def test_what_one_client_remembers_makes_no_other_forget():
    memory = ClickMemory(per_client=2)
    memory.remember(("bob", "a", ""), an_answer())
    for number in range(20):
        memory.remember(("ann", str(number), ""), an_answer())
    assert memory.recall(("bob", "a", ""))


def test_the_clients_who_have_not_clicked_for_longest_are_forgotten():
    memory = ClickMemory(clients=2)
    for client in ("a", "b", "a", "c"):
        memory.remember((client, "", ""), an_answer())
    assert [memory.recall((client, "", "")) != () for client in "abc"] == [True, False, True]


def test_threads_do_not_lose_each_others_answers():
    memory = ClickMemory(per_client=100)

    def click(client: str) -> None:
        for number in range(50):
            memory.remember((client, str(number), ""), an_answer(0))

    threads = [threading.Thread(target=click, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(memory.recall((str(n), str(number), "")) for n in range(4) for number in range(50))
