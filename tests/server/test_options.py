from pathlib import Path

import pytest
import torch

from lib.sam.embeddings.cache import Embedding
from lib.server.options import OptionError, ServerOptions


def test_defaults():
    options = ServerOptions.from_conf({}, Path("/app"))
    assert options.results == Path("/app/results")
    assert (options.embeddings, options.embeddings_max_mb) == (Path("/app/embeddings"), 8192)
    assert options.cors_origins == ("http://localhost", "http://localhost:3000")
    assert options.hosts == ()


def test_values_from_conf(tmp_path):
    conf = {
        "results": str(tmp_path / "with space"),
        "results_max_days": "0",
        "max_upload_mb": "1.5",
        "max_queue": "3",
        "cors_origins": "https://viewer.example/, http://pacs:3000",
        "hosts": "sam.hospital.example, sam",
    }
    options = ServerOptions.from_conf(conf, Path("/app"))
    assert options.results == tmp_path / "with space"
    assert (options.results_max_days, options.max_upload_mb, options.max_queue) == (0, 1.5, 3)
    assert options.cors_origins == ("https://viewer.example", "http://pacs:3000")
    assert options.hosts == ("sam.hospital.example", "sam")


def test_embeddings_on_disk_and_none(tmp_path):
    conf = {"embeddings": str(tmp_path / "kept"), "embeddings_max_mb": "0.5"}
    files = ServerOptions.from_conf(conf, Path("/app")).embedding_files()
    assert files is not None
    files.put(Embedding(torch.zeros(1, 1, 400, 400), (8, 8), "a" * 64))
    files.put(Embedding(torch.zeros(1, 1, 800, 800), (8, 8), "b" * 64))
    files.flush()
    assert [file.stem for file in (tmp_path / "kept").iterdir()] == ["a" * 64]
    assert ServerOptions.from_conf({"embeddings_max_mb": "0"}, tmp_path).embedding_files() is None


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf", ""])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(OptionError, match=f"max_queue must be a number of at least 0, not '{value}'"):
        ServerOptions.from_conf({"max_queue": value}, Path("/app"))
