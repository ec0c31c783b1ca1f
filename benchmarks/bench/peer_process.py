"""A peer that answers requests in a process of its own: ``python peer_process.py NAME FOLDER``.

Reads one request a line as JSON from standard input, answers ``{"seconds": ...}`` a line; the first line says
``{"ready": true}``. What the peer itself prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Handler = Callable[[dict[str, Any]], None]


def monailabel_sam2(folder: Path) -> Handler:
    """MONAI Label's own SAM 2 task in two dimensions, called as its server calls it.

    The folder has the configuration and the checkpoint under the names that MONAI Label downloads them by, so that it
    finds them there. A request is that of ``/infer``; the task encodes the slice each time, and writes the answer.
    """
    from monailabel.sam2.infer import Sam2InferTask

    task = Sam2InferTask(model_dir=str(folder), dimension=2)

    def click(request: dict[str, Any]) -> None:
        file, _ = task({"device": "cpu", **request})
        os.unlink(file)

    return click


def model_for_each_request(folder: Path) -> Handler:
    """A server that builds the model from its checkpoint for each request, encodes and decodes, and keeps nothing."""
    import numpy as np
    from PIL import Image
    from segment_anything import SamPredictor, sam_model_registry

    def segment(request: dict[str, Any]) -> None:
        image = np.asarray(Image.open(request["image"]).convert("RGB"))
        sam = sam_model_registry[request["architecture"]](checkpoint=request["checkpoint"])
        predictor = SamPredictor(sam)
        predictor.set_image(image)
        predictor.predict(np.array(request["points"], float), np.ones(len(request["points"])), multimask_output=False)

    return segment


def bundled_model_for_each_request(folder: Path) -> Handler:
    """The same with this project's small model, for a quick run."""
    import numpy as np
    from PIL import Image

    from lib.sam.engine import Engine
    from lib.sam.models.registry import MODELS
    from lib.sam.prompts import Prompts

    def segment(request: dict[str, Any]) -> None:
        image = np.asarray(Image.open(request["image"]).convert("RGB"))
        predictor = Engine([MODELS["sam_tiny"]], folder, device="cpu").predictor("sam_tiny")
        predictor.decode(predictor.encode(image), [Prompts.from_clicks(request["points"])])

    return segment


PEERS = {peer.__name__: peer for peer in (monailabel_sam2, model_for_each_request, bundled_model_for_each_request)}


def main() -> None:
    """Serves until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what anything else prints is no answer
    handle = PEERS[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        handle(request)
        print(json.dumps({"seconds": time.perf_counter() - started}), file=answers)
    answers.flush()
    os._exit(0)  # MONAI Label's task leaves a thread behind that would not end


if __name__ == "__main__":
    main()
