"""How much arithmetic SAM's image encoder is, and how much of it this machine can do in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class EncoderShape:
    """The shape of a ViT image encoder of segment_anything.

    Args:
        width: Channels of a token.
        heads: Of each attention.
        blocks: All of them.
        global_blocks: Those of them that attend to the whole image instead of a window.
        side: Tokens along one side of the image: the input's pixels over the patch's.
        patch: Pixels along one side of a patch.
        window: Tokens along one side of a window.
        mlp_ratio: Width of the MLP over ``width``.
        out: Channels of the embedding.
    """

    width: int
    heads: int
    blocks: int
    global_blocks: int
    side: int = 64
    patch: int = 16
    window: int = 14
    mlp_ratio: int = 4
    out: int = 256

    @property
    def padded_tokens(self) -> int:
        """Tokens of a windowed block: the image is padded to whole windows."""
        return (-(-self.side // self.window) * self.window) ** 2

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """``(M, K, N)`` of the matrix products of tokens with weights, once each, without the attention's own."""
        width, inner = self.width, self.mlp_ratio * self.width
        tokens = self.side**2
        return [
            *((rows, width, 3 * width) for rows in (self.padded_tokens, tokens)),
            *((rows, width, width) for rows in (self.padded_tokens, tokens)),
            (tokens, width, inner),
            (tokens, inner, width),
        ]


VIT_B = EncoderShape(width=768, heads=12, blocks=12, global_blocks=4)
VIT_H = EncoderShape(width=1280, heads=16, blocks=32, global_blocks=4)


def encoder_flop(shape: EncoderShape) -> float:
    """Floating-point operations of one image, a multiplication and an addition counted as two.

    With ``T = side²`` tokens, ``P`` tokens padded to whole windows, ``D = width``, ``n`` the tokens that one attends
    to (``window²`` in a windowed block, ``T`` in a global one), ``s`` their square root and ``h = D / heads``::

        patch embedding       2 T D (3 patch²)
        windowed block        2 P D (3 D) + 2 P D D      queries, keys, values; projection
                              + 4 P n D                  scores and their use: two products of n x h with h x n
                              + 4 P s D                  relative positions: two products of h x s for each query
                              + 4 T D (mlp_ratio D)      MLP, on the tokens without padding
        global block          the same with P = T
        neck                  2 T D out + 2 T out (9 out)

    Left out are additions of biases, normalisation, GELU and softmax: less than 1 %. For ViT-B at 1024 pixels it is
    972 GFLOP.
    """
    tokens, width = shape.side**2, shape.width

    def block(rows: int, side: int) -> float:
        products = 2 * rows * width * (3 * width) + 2 * rows * width * width
        attention = 4 * rows * side**2 * width + 4 * rows * side * width
        return products + attention + 4 * tokens * width * (shape.mlp_ratio * width)

    windowed = (shape.blocks - shape.global_blocks) * block(shape.padded_tokens, shape.window)
    across = shape.global_blocks * block(tokens, shape.side)
    patches = 2 * tokens * width * 3 * shape.patch**2
    neck = 2 * tokens * width * shape.out + 2 * tokens * shape.out * 9 * shape.out
    return float(patches + windowed + across + neck)


SQUARE = [(2048, 2048, 2048)]

Multiply = Callable[[], object]


def _torch_product(m: int, k: int, n: int) -> Multiply:
    a, b, out = torch.rand(m, k), torch.rand(k, n), torch.empty(m, n)
    return lambda: torch.mm(a, b, out=out)


def _numpy_product(m: int, k: int, n: int) -> Multiply:
    random = np.random.default_rng(0)
    a, b = random.random((m, k), dtype=np.float32), random.random((k, n), dtype=np.float32)
    out = np.empty((m, n), dtype=np.float32)
    return lambda: np.matmul(a, b, out=out)


class MatrixMultiply:
    """Single-precision matrix multiplication at some shapes, by torch and by NumPy.

    Args:
        shapes: By a name for people: ``(M, K, N)`` of products that are done one after the other.
    """

    def __init__(self, shapes: dict[str, Sequence[tuple[int, int, int]]]) -> None:
        self._products: dict[str, tuple[float, list[Multiply]]] = {}
        for library, make in (("torch", _torch_product), ("numpy", _numpy_product)):
            for name, triples in shapes.items():
                flop = float(sum(2 * m * k * n for m, k, n in triples))
                self._products[f"{library}, {name}"] = flop, [make(*triple) for triple in triples]

    def rates(self, repetitions: int = 3) -> dict[str, float]:
        """FLOP a second by library and shapes: the fastest of some repetitions, after one that does not count."""
        found = {}
        for name, (flop, products) in self._products.items():
            times = []
            with torch.inference_mode():
                for _ in range(repetitions + 1):
                    started = time.perf_counter()
                    for multiply in products:
                        multiply()
                    times.append(time.perf_counter() - started)
            found[name] = flop / min(times[1:])
        return found
