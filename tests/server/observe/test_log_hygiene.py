"""Which words get into the logs of a process."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

from lib.base.request_record import RequestRecord, use_record
from lib.server.observe.log_hygiene import clean_logs

FORMAT = "%(levelname)s %(name)s - %(message)s"


@pytest.fixture
def shown(monkeypatch):
    """What a handler of the root logger shows; all that ``clean_logs`` changes is put back at the end."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(root, "level", logging.DEBUG)
    monkeypatch.setattr(logging.getLogger("monailabel"), "level", logging.NOTSET)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    clean_logs()
    clean_logs()
    return lambda: stream.getvalue()


@contextmanager
def uvicorn_logger(name):
    logger = logging.getLogger(name)
    before = logger.propagate, logger.level
    logger.propagate, logger.level = True, logging.INFO
    yield logger
    logger.propagate, logger.level = before


def test_this_apps_messages_are_shown(shown):
    logging.getLogger("lib.server.app").info("Results: %s", "/data/results")
    logging.getLogger("main").info("SAM models: %d%%", 100)
    assert shown() == "INFO lib.server.app - Results: /data/results\nINFO main - SAM models: 100%\n"


def test_of_others_only_warnings_are_shown_without_their_words(shown):
    logger = logging.getLogger("monailabel.datastore.local")
    logger.debug("doe_jane")
    logger.info("Adding Image: doe_jane")
    assert shown() == ""
    logger.warning("IGNORE:: No matching image exists for 'doe_jane'")
    logger.error("%s", "doe_jane")
    first, second = shown().splitlines()
    assert first.startswith("WARNING monailabel.datastore.local - (message withheld")
    assert second.startswith("ERROR monailabel.datastore.local - (message withheld")
    assert "doe" not in shown()


def test_a_request_makes_no_message_that_is_not_shown(shown, monkeypatch):
    logger = logging.getLogger("monailabel.interfaces.app")
    monkeypatch.setattr(logger, "makeRecord", lambda *args: pytest.fail("a record was made"))
    logger.info("Infer Request: doe_jane")


def open_missing_image():
    try:
        Path("/studies/doe_jane.nii.gz").read_bytes()
    except OSError as error:
        raise RuntimeError("cannot segment doe_jane") from error


def test_an_exception_is_shown_by_type_and_lines_of_code_with_its_cause(shown):
    logger = logging.getLogger("lib.server.http.errors")
    try:
        open_missing_image()
    except RuntimeError:
        logger.exception("A request failed")
    text = shown()
    assert text.startswith("ERROR lib.server.http.errors - A request failed\n")
    assert "builtins.FileNotFoundError\nwhich led to:\n" in text and text.endswith("builtins.RuntimeError\n")
    assert 'test_log_hygiene.py", line' in text and "in open_missing_image" in text
    assert "cannot segment doe_jane" not in text.replace('raise RuntimeError("cannot segment doe_jane")', "")


def test_the_records_themselves_stay_as_they_are_for_other_handlers(shown):
    seen = []
    other = logging.Handler()
    other.emit = seen.append
    logging.getLogger().addHandler(other)
    logging.getLogger("monailabel.app").warning("doe %s", "jane")
    assert seen[0].getMessage() == "doe jane" and "jane" not in shown()


def test_messages_of_a_request_begin_with_its_id(shown):
    with use_record(RequestRecord(request_id="0123456789abcdef")):
        logging.getLogger("lib.server.http.errors").error("A request failed: %s", "why")
    assert shown() == "ERROR lib.server.http.errors - [0123456789abcdef] A request failed: why\n"


def test_the_access_log_shows_the_template(shown):
    arguments = ("192.0.2.7:50000", "GET", "/datastore/image?image=doe_jane", "1.1", 200)
    with uvicorn_logger("uvicorn.access") as logger:
        with use_record(RequestRecord(request_id="0123456789abcdef", route="/datastore/image")):
            logger.info('%s - "%s %s HTTP/%s" %d', *arguments)
        logger.info('%s - "%s %s HTTP/%s" %d', *arguments)
        logger.info("doe_jane in another form")
    first, second, third = shown().splitlines()
    assert first.endswith('- [0123456789abcdef] 192.0.2.7:50000 - "GET /datastore/image HTTP/1.1" 200')
    assert second.endswith('- 192.0.2.7:50000 - "GET - HTTP/1.1" 200')
    assert "message withheld" in third


def test_uvicorns_own_messages_are_shown_but_for_the_paths_of_websockets(shown):
    with uvicorn_logger("uvicorn.error") as logger:
        logger.info("Started server process [%d]", 7)
        logger.info('%s - "WebSocket %s" 403', "192.0.2.7:50000", "/doe_jane")
        logger.error('%s - "WebSocket %s" 403', "192.0.2.7:50000", "/doe_jane")
    first, second = shown().splitlines()
    assert first == "INFO uvicorn.error - Started server process [7]"
    assert "message withheld" in second


def test_a_warning_is_shown_by_category_and_line(shown):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = clean_hook()
        warnings.warn("Invalid value for VR PN: 'DOE^JANE'", UserWarning, stacklevel=1)
    assert "UserWarning in line " in shown() and "observe/test_log_hygiene.py" in shown()
    assert "DOE" not in shown()


def clean_hook():
    """``catch_warnings`` puts Python's own hook back in."""
    clean_logs()
    return warnings.showwarning


def test_a_thread_that_ends_by_an_error_is_shown_without_its_words(shown):
    def fail():
        raise ValueError("doe" + "_jane")

    thread = threading.Thread(target=fail, name="watcher")
    thread.start()
    thread.join()
    assert "The thread watcher ended with an error" in shown() and shown().endswith("builtins.ValueError\n")
    assert "doe_jane" not in shown()
