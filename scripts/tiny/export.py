"""Write a model's weights in half precision as a safetensors file, with NumPy alone."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lib.sam.models import tiny as sam_tiny

TYPES = {torch.float16: "F16", torch.int64: "I64"}


def export(model: sam_tiny.SamTiny, path: Path) -> None:
    """Write a model so that `CheckpointStore` can load it; the file appears whole or not at all.

    The layout is that of https://github.com/huggingface/safetensors#format: the header's length as 8 bytes
    little-endian, the header as JSON, padded with spaces to a multiple of 8, and the tensors' bytes.
    """
    header: dict[str, object] = {"__metadata__": sam_tiny.config_metadata(model.config)}
    chunks: list[bytes] = []
    offset = 0
    for name, tensor in sorted(model.state_dict().items()):
        stored = (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        chunk = stored.numpy().tobytes()
        header[name] = {
            "dtype": TYPES[stored.dtype],
            "shape": list(stored.shape),
            "data_offsets": [offset, offset + len(chunk)],
        }
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))
    partial.replace(path)
