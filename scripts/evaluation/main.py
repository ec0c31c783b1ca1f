"""The command line of ``scripts/evaluate``."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.cases import Case, CaseError, find_cases
from evaluation.figures import compare
from evaluation.pictures import save_pictures
from evaluation.protocols import PROTOCOLS, answerable, chances
from evaluation.report import Result, areas, as_text, by_label, calibration, clicks_needed, summary
from evaluation.sample import fill
from evaluation.segmenters import EngineSegmenter, Segmenter, ServerSegmenter
from evaluation.volumes import (
    VOLUME_PROTOCOLS,
    VolumeCase,
    VolumeDialogue,
    answerable_in_volumes,
    find_volume_cases,
)
from lib.imaging.image import ImageError
from lib.imaging.image_cache import image_sha256
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointError
from lib.sam.models.model_specs import ModelSpecsError, known_models
from lib.sam.models.registry import DEFAULT_MODEL, UnknownModelError, get_spec
from lib.version import VERSION

SAMPLES = Path(__file__).resolve().parents[2] / "samples"


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="scripts/evaluate",
        description="Measures a model on images with known masks: Dice, IoU and surface Dice for every way of "
        "prompting, beside what needs no model.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="images and masks: PNG pairs, NIfTI pairs, DICOM series with SEG; without it samples/, filled at first "
        "with a synthetic CT and MR to try this with",
    )
    parser.add_argument("--model", help=f"the model's name; default {DEFAULT_MODEL}, or the server's")
    parser.add_argument("--model-specs", metavar="FILE", type=Path, help="your own models, as for --conf model_specs")
    parser.add_argument("--server", metavar="URL", help="ask a running server by REST instead of the engine")
    parser.add_argument("--api-key", help="for a server that asks for a login")
    parser.add_argument("--device", help="of the engine: cpu, cuda")
    parser.add_argument(
        "--volumes", action="store_true", help="through whole volumes, as the tasks NAME_3d do, instead of on one slice"
    )
    parser.add_argument(
        "--protocols",
        help=f"comma-separated, of: {', '.join(PROTOCOLS)} (default: all but automatic); with --volumes, of: "
        f"{', '.join(VOLUME_PROTOCOLS)} (default: all)",
    )
    parser.add_argument(
        "--tolerance", type=float, default=2.0, help="of the border for surface Dice, mm (pixels without spacing)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the jitter and the random points")
    parser.add_argument(
        "--learn",
        metavar="N,N",
        type=_counts,
        help="let the model learn from so many of the pictures, and measure pictures of other patients",
    )
    parser.add_argument(
        "--minutes", type=float, default=10, help="of each training, with --learn (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder for results.json, table.txt, manifest.json and pictures")
    parser.add_argument("--pictures", type=int, default=4, help="worst and best answers of each row to draw; 0: none")
    return parser


def _counts(text: str) -> list[int]:
    """Parse growing numbers of pictures."""
    counts = [int(word) for word in text.split(",")]
    if counts != sorted(set(counts)) or counts[0] < 1:
        raise ValueError
    return counts


AnyCase = Case | VolumeCase
Ask = Callable[[Any, str], Iterable[tuple[str, np.ndarray, float | None]]]
"""Asks for a case by a protocol: rows of the table, masks, and predicted IoUs."""


def evaluate(ask: Ask, cases: Sequence[AnyCase], protocols: Sequence[str], *, tolerance: float) -> list[Result]:
    """Every answer of every protocol on every case."""
    results = []
    asked = [(case, name) for case in cases for name in protocols]
    for case, name in tqdm(asked, unit="dialogue", disable=not sys.stderr.isatty()):
        for row, mask, score in ask(case, name):
            figures = compare(np.asarray(mask, dtype=bool), case.truth, tolerance=tolerance, spacing=case.spacing)
            results.append(Result(case, row, figures, np.packbits(mask), score))
    return results


def asker(segmenter: Segmenter, seed: int) -> Ask:
    """Return what asks a segmenter, on a slice or through a volume."""

    def ask(case: AnyCase, name: str) -> Iterable[tuple[str, np.ndarray, float | None]]:
        if isinstance(case, Case):
            return PROTOCOLS[name](case, segmenter.begin(case), chances(case, seed))
        assert isinstance(segmenter, EngineSegmenter)
        found = VOLUME_PROTOCOLS[name](case, VolumeDialogue(segmenter.predictor, case))
        return ((row, mask, None) for row, mask in found)

    return ask


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 if it measured, 2 if it was asked for what cannot be."""
    arguments = make_parser().parse_args(argv)
    try:
        protocols = _protocols(arguments)
        if arguments.folder is None:
            arguments.folder = fill(SAMPLES)
            print(f"Measuring on a synthetic CT and MR, in {SAMPLES}", file=sys.stderr)
        if not arguments.folder.is_dir():
            raise CaseError(f"there is no folder {arguments.folder}")
        if arguments.learn:
            return _learn(arguments)
        cases: Sequence[AnyCase]
        cases = find_volume_cases(arguments.folder) if arguments.volumes else find_cases(arguments.folder)
        segmenter = _segmenter(arguments)
        protocols = _answerable(protocols, segmenter, in_volumes=arguments.volumes)
    except (CaseError, ImageError, CheckpointError, ModelSpecsError, UnknownModelError) as error:
        print(f"scripts/evaluate: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    with closing(segmenter):
        results = evaluate(asker(segmenter, arguments.seed), cases, protocols, tolerance=arguments.tolerance)
    unit = "px" if cases[0].spacing is None else "mm"
    table = as_text(results, f"{arguments.tolerance:g} {unit}")
    print(table)
    if arguments.out:
        manifest = {
            **segmenter.describe(),
            "data": {
                "objects": len(cases),
                "images": {file.name: image_sha256(file) for case in cases for file in case.files},
            },
            "protocols": protocols,
            "tolerance": {"value": arguments.tolerance, "unit": unit},
            "seed": arguments.seed,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
            "machine": {"system": platform.platform(), "processor": platform.machine()},
            "versions": {"sam_app": VERSION, **{name: version(name) for name in ("torch", "monai", "numpy")}},
        }
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "table.txt").write_text(table + "\n")
        (arguments.out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        figures = {
            "summary": summary(results),
            "calibration": calibration(results),
            "clicks_needed": clicks_needed(results),
            "areas_under_curve": areas(results),
            "by_label": by_label(results),
            "answers": [result.as_dict() for result in results],
        }
        (arguments.out / "results.json").write_text(json.dumps(figures, indent=1) + "\n")
        save_pictures(results, arguments.out / "pictures", arguments.pictures)
        print(f"\nWritten to {arguments.out}")
    return 0


def _learn(arguments: argparse.Namespace) -> int:
    """Measure what labels teach; returns the exit status."""
    from evaluation import learning

    spec = get_spec(arguments.model or DEFAULT_MODEL)
    results = learning.measure(spec, arguments.folder, arguments.learn, minutes=arguments.minutes, say=print)
    table = learning.as_table(results)
    print(table)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "learning.txt").write_text(table + "\n")
        (arguments.out / "learning.json").write_text(learning.as_json(results))
        (arguments.out / "learning.png").write_bytes(learning.as_picture(results, arguments.folder.name))
    return 0


def _protocols(arguments: argparse.Namespace) -> list[str]:
    """The protocols asked for.

    Raises:
        CaseError: If there is no such protocol, or a server is asked for volumes.
    """
    if arguments.volumes and arguments.server:
        raise CaseError("--volumes measures a model in the engine, not a server: leave --server out")
    known = list(VOLUME_PROTOCOLS if arguments.volumes else PROTOCOLS)
    if arguments.protocols is None:
        return [name for name in known if name != "automatic"]
    protocols = [name.strip() for name in arguments.protocols.split(",") if name.strip()]
    unknown = [name for name in protocols if name not in known]
    if unknown:
        raise CaseError(f"there is no protocol {unknown[0]!r}; there are {', '.join(known)}")
    return protocols


def _answerable(protocols: list[str], segmenter: Segmenter, *, in_volumes: bool) -> list[str]:
    """The protocols that the model can answer; says which others are left out.

    Raises:
        CaseError: If none is left.
    """
    if in_volumes:
        kept = answerable_in_volumes(protocols, segmenter.prompts)
    else:
        kept = answerable(protocols, segmenter.prompts, takes_drawings=segmenter.takes_drawings)
    left_out = [name for name in protocols if name not in kept]
    if left_out:
        takes = " and ".join(kind for kind in segmenter.prompts if kind != "mask")
        reason = f"{segmenter.describe()['model']} takes {takes} alone: {', '.join(left_out)} left out"
        if not kept:
            raise CaseError(reason)
        print(f"scripts/evaluate: {reason}", file=sys.stderr)
    return kept


def _segmenter(arguments: argparse.Namespace) -> Segmenter:
    if arguments.server:
        return ServerSegmenter(arguments.server, arguments.model, arguments.api_key)
    spec = get_spec(arguments.model or DEFAULT_MODEL, known_models(arguments.model_specs))
    return EngineSegmenter(Engine([spec], MODEL_FOLDER, device=arguments.device), spec.name)
