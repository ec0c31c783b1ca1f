from pathlib import Path

import pytest

from lib.server.options import OptionError, ServerOptions


def test_defaults():
    options = ServerOptions.from_conf({}, Path("/app"))
    assert options.results == Path("/app/results")
    assert options.cors_origins == ("http://localhost", "http://localhost:3000")


def test_values_from_conf(tmp_path):
    conf = {
        "results": str(tmp_path / "with space"),
        "results_max_days": "0",
        "max_upload_mb": "1.5",
        "max_queue": "3",
        "cors_origins": "https://viewer.example/, http://pacs:3000",
    }
    options = ServerOptions.from_conf(conf, Path("/app"))
    assert options.results == tmp_path / "with space"
    assert (options.results_max_days, options.max_upload_mb, options.max_queue) == (0, 1.5, 3)
    assert options.cors_origins == ("https://viewer.example", "http://pacs:3000")


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf", ""])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(OptionError, match=f"max_queue must be a number of at least 0, not '{value}'"):
        ServerOptions.from_conf({"max_queue": value}, Path("/app"))
