"""One training from accepted labels to a version that is served if it is better."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from lib.learning import automatic, interactive
from lib.learning.curve import draw_loss
from lib.learning.encoded import ENCODING_SHARE, Encoded, encode, encode_varied
from lib.learning.examples import Example, Mask, fewer, is_in_one_piece, objects_of, split, with_label
from lib.learning.fitting import Effort, Progress, unwatched
from lib.learning.gate import Score, Verdict, judge
from lib.learning.pupil import Pupil
from lib.learning.simulated_user import centre_point
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.overlay import LearnedPrompt, Overlay
from lib.sam.models.registry import ModelSpec
from lib.sam.models.versions import Version, VersionStore, auto_name
from lib.sam.packed_mask import tight_box
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts

JUDGED_OBJECTS = 4
"""Of one label in one picture, by which versions are compared: the largest."""

LEAST_AUTO = 0.5
"""Mean Dice on the held-out pictures that hold a label below which a label's first automatic model is not served."""

Say = Callable[[str], None]
"""Told in a few words what begins."""


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Args:
        version: What was made.
        verdict: Whether it is served, and why.
    """

    version: Version
    verdict: Verdict


class Teacher:
    """Teaches one model by accepted labels.

    Args:
        spec: The model.
        predictor: The same model, to encode pictures with.
        store: Its checkpoints.
        versions: Where versions are kept.
        fixed: Examples that stay the same, of other kinds than the site's: a new version must not be worse on them, and
            learns from half of them, so that it forgets less.
    """

    def __init__(
        self,
        spec: ModelSpec,
        predictor: Predictor,
        store: CheckpointStore,
        versions: VersionStore,
        fixed: Sequence[Example] = (),
    ) -> None:
        self.spec, self.predictor, self.store, self.versions = spec, predictor, store, versions
        self.repeated, self.judged = list(fixed[::2]), list(fixed[1::2])

    def improve(
        self, examples: Sequence[Example], effort: Effort, progress: Progress = unwatched, say: Say = lambda _: None
    ) -> Outcome:
        """Teach the model to answer prompts better, and serve the new version if it does.

        It begins with the published weights each time, so that nothing drifts away over many trainings.

        Raises:
            TrainingRequestError: If there are labels of less than two studies.
        """
        learned, held_out = (fewer(part) for part in split(examples))
        say("encoding")
        pictures = self._pictures([*learned, *self.repeated], effort)
        questions, fixed = encode(self.predictor, held_out), encode(self.predictor, self.judged)
        pupil = Pupil(self.spec, self.store)
        if served := self._served(self.spec.name):
            served.apply(pupil.decoder)
        before, fixed_before = _prompted(pupil, questions), _prompted(pupil, fixed)
        pupil = Pupil(self.spec, self.store)
        say("learning")
        losses, watched = _watch(progress)
        steps = interactive.learn(pupil, pictures, effort.share(1 - ENCODING_SHARE), watched)
        say("comparing")
        verdict = judge(before, _prompted(pupil, questions), (fixed_before, _prompted(pupil, fixed)))
        facts = self._facts(learned, held_out, effort, steps)
        return self._publish(self.spec.name, Overlay.of(pupil.decoder), facts, verdict, losses)

    def automate(
        self,
        label: str,
        examples: Sequence[Example],
        effort: Effort,
        progress: Progress = unwatched,
        say: Say = lambda _: None,
    ) -> Outcome:
        """Teach the model to find a label by itself, and serve that if it is better than what is served.

        The first version must find it with a mean Dice of ``LEAST_AUTO``, and not mark too much elsewhere.

        Args:
            label: The label's name.
            examples: All accepted ones; those in which nobody looked for the label are left out.
            effort: How long.
            progress: Told after each step.
            say: Told what begins.

        Raises:
            TrainingRequestError: If there are labels of less than two studies.
        """
        name = auto_name(label)
        learned, held_out = (fewer(part) for part in split(with_label(examples, label)))
        say("encoding")
        pictures, questions = self._pictures(learned, effort), encode(self.predictor, held_out)
        pupil = Pupil(self.spec, self.store)
        before = _nothing_found(label, questions)
        if served := self._served(name):
            served.apply(pupil.decoder)
            before = _found(pupil, served.prompt, label, questions)
            pupil = Pupil(self.spec, self.store)
        say("learning")
        losses, watched = _watch(progress)
        prompt, steps = automatic.learn(pupil, label, pictures, effort.share(1 - ENCODING_SHARE), watched)
        say("comparing")
        after = _found(pupil, prompt, label, questions)
        verdict = judge(before, after, ((), ())) if served else _first(before, after)
        facts = {**self._facts(learned, held_out, effort, steps), "label": label}
        facts["in_one_piece"] = is_in_one_piece([*learned, *held_out], label)
        return self._publish(name, Overlay.of(pupil.decoder, prompt), facts, verdict, losses)

    def _served(self, name: str) -> Overlay | None:
        """Return what is served for a name; None if nothing is, or what other weights of the model learned."""
        number = self.versions.served(name)
        version = None if number is None else self.versions.get(name, number)
        if version is None or version.manifest.get("checkpoint_sha256") != self.predictor.checkpoint_sha256:
            return None
        return self.versions.overlay(version)

    def _pictures(self, examples: Sequence[Example], effort: Effort) -> list[list[Encoded]]:
        return encode_varied(self.predictor, examples, seconds=effort.share(ENCODING_SHARE).seconds)

    def _facts(
        self, learned: Sequence[Example], held_out: Sequence[Example], effort: Effort, steps: int
    ) -> dict[str, object]:
        return {
            "model": self.spec.name,
            "checkpoint_sha256": self.predictor.checkpoint_sha256,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "settings": asdict(effort),
            "steps": steps,
            "learned": {"pictures": len(learned), "studies": len({one.study for one in learned})},
            "held_out": {"pictures": len(held_out), "studies": len({one.study for one in held_out})},
            "labels": sorted({label for one in learned for label in one.masks}),
            "data_sha256": sorted(one.digest for one in learned),
            "notice": "These weights are derived from patients' images: treat them as such.",
        }

    def _publish(
        self, name: str, overlay: Overlay, facts: dict[str, object], verdict: Verdict, losses: Sequence[float]
    ) -> Outcome:
        manifest = {**facts, "verdict": asdict(verdict), "losses": [round(loss, 4) for loss in losses]}
        version = self.versions.add(name, overlay, manifest, draw_loss(losses))
        if verdict.accepted:
            self.versions.promote(name, version.number)
        return Outcome(version, verdict)


def _nothing_found(label: str, questions: Sequence[Encoded]) -> list[Score]:
    """Return the scores of an answer that never finds a label."""
    return [Score(seen.study, "auto", float(not seen.holds(label))) for seen in questions]


def _first(before: Sequence[Score], after: Sequence[Score]) -> Verdict:
    """Compare a label's first automatic model with nothing: there may be few studies to be sure by.

    Args:
        before: Of an answer that never finds the label.
        after: Of the new model.
    """
    present = [now.dice for was, now in zip(before, after, strict=True) if not was.dice]
    where = float(np.mean(present)) if present else 0.0
    old, new = (float(np.mean([score.dice for score in scores])) for scores in (before, after))
    if not present:
        reason = "no held-out study holds the label, by which it could be judged: accept more labels"
    elif where < LEAST_AUTO:
        reason = f"its Dice on the held-out studies is {where:.3f}, less than {LEAST_AUTO}"
    elif new <= old:
        reason = "it marks too much in studies that do not hold the label"
    else:
        found = f"its Dice on the held-out studies is {where:.3f}"
        return Verdict(True, found, {"auto": round(old, 4)}, {"auto": round(new, 4)}, 1.0)
    return Verdict(False, reason, {"auto": round(old, 4)}, {"auto": round(new, 4)}, 0.0)


def _watch(progress: Progress) -> tuple[list[float], Progress]:
    """Return a list of the loss at each hundredth of the training, and what fills it."""
    losses: list[float] = []

    def watched(part: float, loss: float) -> None:
        if part * 100 >= len(losses):
            losses.append(loss)
        progress(part, loss)

    return losses, watched


def dice(answer: Mask, truth: Mask) -> float:
    """Return the Dice coefficient of two masks; 1 if both are empty."""
    total = int(np.count_nonzero(answer)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(answer & truth)) / total if total else 1.0


@torch.no_grad()
def _prompted(pupil: Pupil, questions: Sequence[Encoded]) -> list[Score]:
    """Ask for the largest objects of each picture by a tight box and, if the model takes points, by the centre."""
    scores = []
    for seen in questions:
        objects = [one for label in seen.packed for one in objects_of(seen.mask(label), JUDGED_OBJECTS)]
        if not objects:
            continue
        asked = {"box": [Prompts(box=tight_box(mask)) for mask in objects]}
        if pupil.predictor.spec.takes_points:
            asked["point"] = [Prompts.from_clicks([centre_point(mask)]) for mask in objects]
        for kind, prompts in asked.items():
            logits, _ = pupil.answer(seen, prompts)
            answers = pupil.masks(logits, seen)
            pairs = zip(answers, objects, strict=True)
            scores += [Score(seen.study, kind, dice(answer, mask)) for answer, mask in pairs]
    return scores


@torch.no_grad()
def _found(pupil: Pupil, prompt: LearnedPrompt | None, label: str, questions: Sequence[Encoded]) -> list[Score]:
    """Let a label be found in each picture."""
    if prompt is None:
        raise ValueError("this version answers prompts: it finds nothing by itself")
    scores = []
    for seen in questions:
        logits, _ = pupil.find(seen, prompt)
        [answer] = pupil.masks(logits, seen)
        scores.append(Score(seen.study, "auto", dice(answer, seen.mask(label))))
    return scores
