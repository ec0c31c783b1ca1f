"""MONAI Label's task of training a model: what ``/info/`` lists, and the job that a request means."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from lib.learning.job import Job, TrainingRequestError
from lib.sam.engine import Engine
from lib.sam.models.registry import ModelSpec
from lib.sam.models.versions import auto_name
from lib.trainers.accepted_labels import accepted_labels, study_of

DEFAULT_MINUTES, MOST_MINUTES = 10.0, 600.0
EVERYTHING, PROMPTS, LABELS = "everything", "prompts", "labels"
TEACH = (EVERYTHING, PROMPTS, LABELS)
"""What to teach: to answer prompts, to find labels by itself, or both; the first is the default."""


class TeachTask(TrainTask):
    """Training of one model from the accepted labels.

    Args:
        spec: The model.
        engine: Where its checkpoint and versions are.
        study_pattern: See :func:`~lib.trainers.accepted_labels.accepted_labels`.
    """

    def __init__(self, spec: ModelSpec, engine: Engine, study_pattern: str) -> None:
        super().__init__(f"Teaches {spec.name} from the labels that were accepted as final")
        self._spec, self._engine, self._study_pattern = spec, engine, study_pattern

    def config(self) -> dict[str, Any]:
        """Return the options that viewers show, with their defaults; a list's first is one."""
        return {"teach": list(TEACH), "minutes": DEFAULT_MINUTES}

    def stats(self) -> dict[str, Any]:
        """Return MONAI Label's figures of what is served: its version and scores, with the best as OHIF shows it."""
        number = self._engine.versions.served(self._spec.name)
        if number is None:
            return {}
        version = self._engine.versions.get(self._spec.name, number)
        scores: dict[str, float] = version.manifest.get("verdict", {}).get("after", {})
        return {"version": version.title, "dice": scores, "best_metric": max(scores.values(), default=0.0)}

    def check(self, request: dict[str, Any], datastore: Datastore) -> None:
        """Check a request as far as that takes no time.

        Raises:
            TrainingRequestError: For values that cannot be, or if there are too few labels.
        """
        minutes = request.get("minutes", DEFAULT_MINUTES)
        if not isinstance(minutes, (int, float)) or isinstance(minutes, bool) or not 0 < minutes <= MOST_MINUTES:
            raise TrainingRequestError(f"minutes must be a number above 0, up to {MOST_MINUTES:g}")
        studies = len({study_of(image, self._study_pattern) for image in datastore.get_labeled_images()})
        if studies < 2:
            raise TrainingRequestError(f"learning needs final labels of at least 2 studies, there are {studies}")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> Job:
        """Return what a request means to learn; fetches the labels of a DICOMweb server.

        Args:
            request: ``teach``, one of :data:`TEACH` or the name of a label; ``minutes``. Other keys are ignored.
            datastore: Whose final labels are accepted.

        Raises:
            TrainingRequestError: For other values.
        """
        asked = request.get("teach", EVERYTHING)
        asked = asked[0] if isinstance(asked, list) and asked else asked
        accepted = list(accepted_labels(datastore, self._study_pattern))
        labels = sorted({name for one in accepted for name in one.names.values()})
        names = {EVERYTHING: [], PROMPTS: [self._spec.name], LABELS: [auto_name(label) for label in labels]}
        names |= {label: [auto_name(label)] for label in labels if label not in names}
        if not isinstance(asked, str) or asked not in names:
            raise TrainingRequestError(f"teach must be {', '.join([*TEACH, *labels])}, not {asked!r:.80}")
        minutes = float(request.get("minutes", DEFAULT_MINUTES))
        return Job(self._spec, self._engine.model_folder, accepted, names[asked], minutes)
