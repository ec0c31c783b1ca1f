"""All rows, in the order in which they are run."""

from __future__ import annotations

from bench import (
    click_rows,
    decoder_row,
    encoder_rows,
    gpu_row,
    learning_row,
    load_rows,
    rest_rows,
    sam2_rows,
    start_row,
    workers_row,
)
from bench.row import Row

MODULES = (
    encoder_rows, sam2_rows, click_rows, rest_rows, load_rows, learning_row, start_row, decoder_row, gpu_row,
    workers_row,
)  # fmt: skip

ROWS: dict[str, Row] = {row.id: row for module in MODULES for row in module.ROWS}


class UnknownRowError(ValueError):
    """There is no row of that name; the message lists those there are."""


def chosen(names: list[str]) -> list[Row]:
    """Rows by their ids, in the order of the catalogue; all of them for an empty list.

    Raises:
        UnknownRowError: For an id that is not known.
    """
    for name in names:
        if name not in ROWS:
            raise UnknownRowError(f"there is no row {name!r}; the rows are: {', '.join(ROWS)}")
    return [row for id, row in ROWS.items() if not names or id in names]
