"""Who is asked: a model in the engine, or a running server as any user of its REST routes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, Protocol

import httpx
import numpy as np
from PIL import Image

from evaluation.cases import Case
from evaluation.users import Click
from lib.sam.automatic import segment_automatically
from lib.sam.engine import Engine
from lib.sam.models.registry import UnknownModelError
from lib.sam.prompts import Prompts
from lib.sam.refinement import EarlierObject, continue_from, find_earlier
from lib.sam.strokes import lasso_prompts, stroke_points
from lib.sam.volume.corrections import corrected

Answer = tuple[np.ndarray, float]
"""``(H, W)`` bool mask and its predicted IoU."""


class Dialogue(Protocol):
    """One object being segmented: each request goes on from the answer before."""

    def ask(self, box: np.ndarray | None, clicks: Sequence[Click]) -> Answer:
        """The mask for all prompts so far."""

    def ask_stroke(self, drawn: np.ndarray) -> Answer:
        """The mask for a stroke on the object, ``(H, W)`` bool."""

    def ask_lasso(self, area: np.ndarray) -> Answer:
        """The mask for what a line around the object encloses, likewise."""

    def ask_correction(self, start: np.ndarray, click: Click) -> Answer:
        """A mask that is there already, likewise, as one click corrects it."""

    def ask_nothing(self) -> list[np.ndarray]:
        """Every object that is found without prompts, each ``(H, W)`` bool."""


class Segmenter(Protocol):
    """Something that segments.

    Attributes:
        takes_drawings: Whether it can be asked by strokes and areas.
    """

    takes_drawings: bool

    def begin(self, case: Case) -> Dialogue:
        """Start with an object, nothing known of it."""

    @property
    def prompts(self) -> Sequence[str]:
        """The kinds of prompts that it takes."""

    def describe(self) -> dict[str, Any]:
        """What it is, for the manifest."""

    def close(self) -> None:
        """Let go of what it holds."""


class EngineSegmenter:
    """A model in this process, asked as the app's inference task asks it.

    Args:
        engine: Has the model.
        model: Its name.

    Attributes:
        predictor: The model's.
    """

    takes_drawings = True

    def __init__(self, engine: Engine, model: str) -> None:
        self.predictor = engine.predictor(model)
        self._spec = engine.specs[model]
        self._device = str(engine.device)

    def begin(self, case: Case) -> Dialogue:
        """See :class:`Segmenter`."""
        return _EngineDialogue(self.predictor, self._spec.point_candidates, case)

    @property
    def prompts(self) -> Sequence[str]:
        """See :class:`Segmenter`."""
        return self._spec.prompts

    def describe(self) -> dict[str, Any]:
        """See :class:`Segmenter`."""
        return {
            "model": self._spec.name,
            "checkpoint_sha256": self.predictor.checkpoint_sha256,
            "through": "engine",
            "device": self._device,
        }

    def close(self) -> None:
        """See :class:`Segmenter`: nothing is held."""


class _EngineDialogue:
    def __init__(self, predictor: Any, point_candidates: bool, case: Case) -> None:
        self._predictor = predictor
        self._point_candidates = point_candidates
        self._embedding = predictor.encode(case.frame)
        self._last: EarlierObject | None = None

    def ask(self, box: np.ndarray | None, clicks: Sequence[Click]) -> Answer:
        prompts = Prompts(
            points=np.array([click[:2] for click in clicks]).reshape(-1, 2),
            labels=np.array([click[2] for click in clicks], dtype=int),
            box=box,
        )
        goes_on = self._last is not None and "mask" in self._predictor.spec.prompts
        earlier = find_earlier(prompts, [self._last] if self._last and goes_on else [])
        asked = prompts if earlier is None else continue_from(prompts, earlier)
        is_lone_point = len(clicks) == 1 and box is None and earlier is None
        [prediction] = self._predictor.decode(
            self._embedding, [asked], multimask=is_lone_point and self._point_candidates
        )
        self._last = EarlierObject(prompts, prediction.scores, prediction.low_res_logits)
        return prediction.masks[0], float(prediction.scores[0])

    def ask_stroke(self, drawn: np.ndarray) -> Answer:
        points = stroke_points(drawn)[:, ::-1]
        return self._decoded(Prompts(points=points, labels=np.ones(len(points))))

    def ask_lasso(self, area: np.ndarray) -> Answer:
        return self._decoded(lasso_prompts(area, self._predictor.spec.prompts))

    def ask_correction(self, start: np.ndarray, click: Click) -> Answer:
        points = Prompts(points=np.array([click[:2]]), labels=np.array([click[2]]), area=start)
        answer, score = self._decoded(points.correcting(start))
        return corrected(start, answer, points.points, points.labels), score

    def _decoded(self, prompts: Prompts) -> Answer:
        is_ambiguous = prompts.is_lone_point and self._point_candidates
        [prediction] = self._predictor.decode(self._embedding, [prompts], multimask=is_ambiguous)
        return prediction.masks[0], float(prediction.scores[0])

    def ask_nothing(self) -> list[np.ndarray]:
        return [prediction.masks[0] for prediction in segment_automatically(self._predictor, self._embedding)]


class ServerSegmenter:
    """A model of a running server, asked through ``POST /segment_input_image/`` with ``refine``.

    Args:
        url: The server's address.
        model: The model's name there; None for its default.
        api_key: If it asks for a login.
    """

    takes_drawings = False

    def __init__(self, url: str, model: str | None, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=600)
        health = self._client.get("/health_check/").raise_for_status().json()
        self._model = model or health["default_model"]
        if self._model not in health["models"]:
            raise UnknownModelError(f"the server has no model {self._model!r}; it has {', '.join(health['models'])}")
        self._prompts: list[str] = health["model_facts"][self._model]["prompts"]
        self._facts: dict[str, Any] = {"model": self._model, "through": url, "version": health["version"]}

    def begin(self, case: Case) -> Dialogue:
        """See :class:`Segmenter`."""
        return _ServerDialogue(self._client, self._model, case, self._facts)

    @property
    def prompts(self) -> Sequence[str]:
        """See :class:`Segmenter`."""
        return self._prompts

    def describe(self) -> dict[str, Any]:
        """See :class:`Segmenter`."""
        return dict(self._facts)

    def close(self) -> None:
        """See :class:`Segmenter`."""
        self._client.close()


class _NotDrawn:
    """Drawings are asked of a model in this process only."""

    def _refuse(self, *asked: Any) -> Answer:
        raise RuntimeError("a server is asked by points and boxes")

    ask_stroke = ask_lasso = ask_correction = _refuse


class _ServerDialogue(_NotDrawn):
    def __init__(self, client: httpx.Client, model: str, case: Case, facts: dict[str, Any]) -> None:
        self._client = client
        self._common = {"model": model, "frame": case.frame_index}
        self._file = case.file
        self._facts = facts
        self._last: float | None = None

    def ask(self, box: np.ndarray | None, clicks: Sequence[Click]) -> Answer:
        sam_input: dict[str, Any] = dict(self._common)
        if box is not None:
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            sam_input["rectangles"] = [{"startX": x, "startY": y, "width": width, "height": height}]
        for kind, wanted in (("positive_points", 1), ("negative_points", 0)):
            sam_input[kind] = [{"x": x, "y": y} for x, y, label in clicks if label == wanted]
        mask, facts = self._segment(sam_input)
        return mask == 1, float(facts["scores"][0])

    def ask_nothing(self) -> list[np.ndarray]:
        mask, _ = self._segment(dict(self._common))
        return [mask == number for number in range(1, int(mask.max()) + 1)]

    def _segment(self, sam_input: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        files = {}
        if self._last is None:
            files["file"] = (self._file.name, self._file.read_bytes())
        else:
            sam_input["refine"] = self._last
        data = {"sam_input": json.dumps(sam_input)}
        answer = self._client.post("/segment_input_image/", files=files, data=data)
        if answer.is_error:
            raise RuntimeError(f"the server answered {answer.status_code}: {answer.text[:300]}")
        self._last = answer.json()["timestamp"]
        facts: dict[str, Any] = json.loads(answer.headers["SAM-Result"])
        self._facts["checkpoint_sha256"] = facts["checkpoint_sha256"]
        picture = self._client.get(f"/get_segmented_image/{self._last}?view=mask").raise_for_status()
        return np.asarray(Image.open(io.BytesIO(picture.content))), facts
