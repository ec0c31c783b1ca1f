"""The command line of ``scripts/evaluate``."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.cases import Case, CaseError, find_cases
from evaluation.figures import compare
from evaluation.protocols import PROTOCOLS, answerable, chances
from evaluation.report import Result, as_text, by_label, calibration, clicks_needed, save_pictures, summary
from evaluation.segmenters import EngineSegmenter, Segmenter, ServerSegmenter
from lib.imaging.image import ImageError
from lib.imaging.image_cache import image_sha256
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointError
from lib.sam.models.model_specs import ModelSpecsError, known_models
from lib.sam.models.registry import DEFAULT_MODEL, UnknownModelError, get_spec
from lib.version import VERSION


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="scripts/evaluate",
        description="Measures a model on images with known masks: Dice, IoU and surface Dice for every way of "
        "prompting, beside what needs no model.",
    )
    parser.add_argument("folder", type=Path, help="images and masks: PNG pairs, NIfTI pairs, DICOM series with SEG")
    parser.add_argument("--model", help=f"the model's name; default {DEFAULT_MODEL}, or the server's")
    parser.add_argument("--model-specs", metavar="FILE", type=Path, help="your own models, as for --conf model_specs")
    parser.add_argument("--server", metavar="URL", help="ask a running server by REST instead of the engine")
    parser.add_argument("--api-key", help="for a server that asks for a login")
    parser.add_argument("--device", help="of the engine: cpu, cuda")
    parser.add_argument(
        "--protocols",
        default=",".join(name for name in PROTOCOLS if name != "automatic"),
        help=f"comma-separated, of: {', '.join(PROTOCOLS)} (default: all but automatic)",
    )
    parser.add_argument(
        "--tolerance", type=float, default=2.0, help="of the border for surface Dice, mm (pixels without spacing)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the jitter and the random points")
    parser.add_argument("--out", type=Path, help="folder for results.json, table.txt, manifest.json and pictures")
    parser.add_argument("--pictures", type=int, default=4, help="worst and best answers of each row to draw; 0: none")
    return parser


def evaluate(
    segmenter: Segmenter, cases: list[Case], protocols: list[str], *, tolerance: float, seed: int
) -> list[Result]:
    """Every answer of every protocol on every case."""
    results = []
    for case in tqdm(cases, unit="object", disable=not sys.stderr.isatty()):
        for name in protocols:
            for row, mask, score in PROTOCOLS[name](case, segmenter.begin(case), chances(case, seed)):
                figures = compare(mask, case.truth, tolerance=tolerance, spacing=case.spacing)
                results.append(Result(case, row, figures, np.asarray(mask, dtype=bool), score))
    return sorted(results, key=lambda result: _ORDER.index(result.row.partition(" ")[0]))


_ORDER = ("tight", "jittered", "centre", "random", "clicks", "box,", "automatic")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 if it measured, 2 if it was asked for what cannot be."""
    arguments = make_parser().parse_args(argv)
    protocols = [name.strip() for name in arguments.protocols.split(",") if name.strip()]
    unknown = [name for name in protocols if name not in PROTOCOLS]
    try:
        if unknown:
            raise CaseError(f"there is no protocol {unknown[0]!r}; there are {', '.join(PROTOCOLS)}")
        if not arguments.folder.is_dir():
            raise CaseError(f"there is no folder {arguments.folder}")
        cases = find_cases(arguments.folder)
        segmenter = _segmenter(arguments)
        protocols = _without_unanswerable(protocols, segmenter)
    except (CaseError, ImageError, CheckpointError, ModelSpecsError, UnknownModelError) as error:
        print(f"scripts/evaluate: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    with closing(segmenter):
        results = evaluate(segmenter, cases, protocols, tolerance=arguments.tolerance, seed=arguments.seed)
    unit = "px" if cases[0].spacing is None else "mm"
    table = as_text(results, f"{arguments.tolerance:g} {unit}")
    print(table)
    if arguments.out:
        manifest = {
            **segmenter.describe(),
            "data": {
                "objects": len(cases),
                "images": {case.file.name: image_sha256(case.file) for case in cases},
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
            "by_label": by_label(results),
            "answers": [result.as_dict() for result in results],
        }
        (arguments.out / "results.json").write_text(json.dumps(figures, indent=1) + "\n")
        save_pictures(results, arguments.out / "pictures", arguments.pictures)
        print(f"\nWritten to {arguments.out}")
    return 0


def _without_unanswerable(protocols: list[str], segmenter: Segmenter) -> list[str]:
    """The protocols that the model can answer; says which others are left out.

    Raises:
        CaseError: If none is left.
    """
    kept = answerable(protocols, segmenter.prompts)
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
