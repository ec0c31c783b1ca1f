"""The int8 form of a model's encoder from the command line: made from your images, checked on others of them, kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from lib.sam.agreement import MaskAgreement

APP_FOLDER = Path(__file__).resolve().parents[1] / "apps" / "sam_app"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/quantize",
        description="Makes the int8 form of a model's image encoder for CPUs, from images like those that it will see, "
        "and compares its masks with float32's on others of them. Kept only if they agree; then start the server with "
        "--conf precision int8. Everything stays on this machine.",
        epilog="Whether it is faster depends on the CPU (VNNI or AMX): both times are printed.",
    )
    parser.add_argument("model", metavar="MODEL", help="e.g. sam_vit_b")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="images of any kind that is read")
    parser.add_argument("--count", type=int, default=24, help="slices to use, half of each kind (default: %(default)s)")
    parser.add_argument(
        "--min-iou", type=float, default=0.95, help="refused if the masks' mean IoU is less (default: %(default)s)"
    )
    parser.add_argument("--models", type=Path, default=APP_FOLDER / "model", help="another model folder")
    parser.add_argument("--model-specs", metavar="FILE", type=Path, help="your own models, as for --conf model_specs")
    return parser


def frames(folder: Path, count: int) -> list[np.ndarray]:
    """So many slices of a folder's images, spread evenly over each, ``(H, W, 3)`` uint8 as a model sees them."""
    from lib.imaging.image import ImageError
    from lib.imaging.readers import read_image
    from lib.transforms.window import choose_window, windowed_frame

    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found: list[np.ndarray] = []
    for index, path in enumerate(paths):
        share = -(-(count - len(found)) // (len(paths) - index))
        if share <= 0:
            break
        try:
            image = read_image(path)
        except ImageError as error:
            print(f"scripts/quantize: {path.name} is left out: {error}", file=sys.stderr)
            continue
        share = min(share, image.frame_count)
        places = [round((step + 0.5) * image.frame_count / share - 0.5) for step in range(share)]
        found += [windowed_frame(image, k, choose_window(image, k)[0]) for k in places]
    return found


def report(check: MaskAgreement) -> str:
    """The comparison in words."""
    return (
        f"masks compared      {check.masks}\n"
        f"IoU with float32    mean {check.mean_iou:.4f}, 5th percentile {check.worst_iou:.4f}\n"
        f"embeddings          relative difference {check.embedding_difference:.4f}\n"
        f"an encode           {check.seconds:.3f} s, float32 {check.float32_seconds:.3f} s: "
        f"{check.seconds / check.float32_seconds:.2f} of its time"
    )


def run(arguments: argparse.Namespace) -> None:
    """Does what the command line says; raises what went wrong."""
    from lib.sam.engine import Engine
    from lib.sam.int8 import Int8RefusedError, make_int8
    from lib.sam.models.checkpoints import CheckpointStore
    from lib.sam.models.model_specs import known_models
    from lib.sam.models.registry import Sam2Spec, get_spec
    from lib.sam.runtimes.openvino_ir import NetworkKey, find_networks

    spec = get_spec(arguments.model, known_models(arguments.model_specs))
    if isinstance(spec, Sam2Spec):
        raise ValueError(f"{spec.name} is a SAM 2, and int8 is for the first SAMs and their like alone")
    images = frames(arguments.images, arguments.count)
    if len(images) < 4:
        raise ValueError(f"{len(images)} slices were found; at least 4 are needed, and more are better")
    sha256 = CheckpointStore(arguments.models).verified(spec).sha256
    predictor = Engine([spec], arguments.models, device="cpu", cache_bytes=0, precision="float32").predictor(spec.name)
    float32 = find_networks(arguments.models, NetworkKey.of(spec, sha256))
    if float32 is None:
        raise ValueError("there is no float32 form to start from: OpenVINO cannot be used on this machine")
    key = NetworkKey.of(spec, sha256, "int8")
    print(f"{spec.name}: calibrating with {len(images[::2])} slices, checking with {len(images[1::2])} others ...")
    try:
        check = make_int8(
            predictor, float32, arguments.models, key, images[::2], images[1::2], min_iou=arguments.min_iou
        )
    except Int8RefusedError as error:
        print(report(error.check))
        raise
    print(report(check))
    print(f"kept: start the server with --conf models {spec.name} --conf precision int8")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 if it was kept, 1 if not, 2 for a wrong call."""
    arguments = make_parser().parse_args(argv)
    from lib.sam.models.registry import UnknownModelError

    try:
        run(arguments)
    except UnknownModelError as error:
        print(f"scripts/quantize: {error}", file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        print(f"scripts/quantize: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
