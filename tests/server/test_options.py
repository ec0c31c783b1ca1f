import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from lib.sam.embeddings.cache import Embedding
from lib.server.options import OptionError, ServerOptions

DOCS = Path(__file__).resolve().parents[2] / "docs"


def shown(default: object) -> str:
    """A default as the documents have it."""
    if isinstance(default, Path):
        return f"`apps/sam_app/{default}`"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`" if default else ""
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default).lower()


def rows() -> list[str]:
    """The table of docs/options.md, as the declarations have it."""
    return [
        f"| `{item.name}` | {item.metadata['shown'] or shown(item.default)} | {item.metadata['meaning']} |".replace(
            "  ", " "
        )
        for item in fields(ServerOptions)
    ]


def test_the_documents_list_every_option_and_the_same_defaults():
    text = (DOCS / "options.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows()
    used = {name for row in rows() for name in re.findall(r"\[([a-z ]+)\]", row)}
    links = dict(re.findall(r"^\[([a-z ]+)\]: (\S+)$", text, re.MULTILINE))
    assert used == links.keys()
    operations = (DOCS / "operations.md").read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.+)$", operations, re.MULTILINE)
    }
    for page, _, heading in (link.partition("#") for link in links.values()):
        assert heading in headings if page == "operations.md" else (DOCS / page).is_file()
    row = re.compile(r"^\| `(\w+)` \|(.*?)\|", re.MULTILINE)
    explained, defaults = row.findall(operations), dict(row.findall("\n".join(rows())))
    assert len(explained) > 10
    assert explained == [(name, defaults[name]) for name, _ in explained]


def test_an_option_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(OptionError, match=r"there is no option 'max_quue'; did you mean max_queue\?"):
        ServerOptions.from_conf({"max_quue": "3"}, Path("/app"))
    with pytest.raises(OptionError, match="did you mean models"):
        ServerOptions.from_conf({"Model": "sam_tiny"}, Path("/app"))
    with pytest.raises(OptionError, match="there is no option 'xyz'; there are ahead, api_keys, "):
        ServerOptions.from_conf({"xyz": "1"}, Path("/app"))


def test_what_can_be_one_of_a_few_is_refused_with_those():
    with pytest.raises(OptionError, match="--conf compile can be true, false, not 'yes'"):
        ServerOptions.from_conf({"compile": "yes"}, Path("/app"))
    assert ServerOptions.from_conf({"compile": "TRUE", "precision": "Int8"}, Path("/app")).precision == "int8"
    with pytest.raises(OptionError, match="max_seconds must be a number above 0, not '0'"):
        ServerOptions.from_conf({"max_seconds": "0"}, Path("/app"))


def test_an_empty_place_is_the_default_one():
    assert ServerOptions.from_conf({"results": "", "labels": ""}, Path("/app")).results == Path("/app/results")


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
