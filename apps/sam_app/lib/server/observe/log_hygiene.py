"""Logs without patient data: no patient's name, file's name, path or image's id.

MONAI Label and the libraries that it uses write whole requests, paths and ids into their messages, and exceptions quote
their input. Such text cannot be recognised afterwards, so the rule depends on where a message comes from:

* Messages of this app and of uvicorn are shown: they were written, or reviewed, to contain no patient data.
* Of all other packages only warnings and errors are shown, without their text: the package and line of code.
* Exceptions are shown as their types and the lines of code of their stack, without their text.
* uvicorn's access log (``--access_log``) shows the route's template, neither path nor query.
* Python's warnings are shown as their category and the line of code.
* A line of code that logs very often is limited; the number of omitted messages is shown.

Messages logged during a request begin with the request's id, which is also in the audit log and in the response's
header ``X-Request-ID``. What MONAI Label prints before it loads the app (the command line) cannot be changed here.
"""

import copy
import logging
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import SimpleITK

from lib.base.request_record import current_record
from lib.server.observe.template import known_method

logger = logging.getLogger(__name__)

_SHOWN_PACKAGES = ("lib", "main", "uvicorn")
_ACCESS = "uvicorn.access"
_UPSTREAM = "monailabel"
_WITHHELD = "(message withheld: it could name a patient; this is the line of code that wrote it)"


LINES = 100
PERIOD_S = 60.0
"""A line of code may log ``LINES`` messages in ``PERIOD_S`` seconds."""
_MAX_SITES = 10_000


class RateLimit(logging.Filter):
    """Log filter that limits the rate; the first record after omitted ones has their number as ``left_out``."""

    def __init__(self) -> None:
        super().__init__()
        self._sites: dict[tuple[str, int], list[float]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if record.name == _ACCESS:  # one line per request; the operator has switched it on
            return True
        now, site = time.monotonic(), (record.pathname, record.lineno)
        with self._lock:
            if len(self._sites) > _MAX_SITES:
                self._sites.clear()
            begun, lines = self._sites.setdefault(site, [now, 0])
            if now - begun >= PERIOD_S:
                if lines > LINES:
                    record.left_out = int(lines - LINES)
                begun, lines = now, 0
            self._sites[site] = [begun, lines + 1]
            return lines < LINES


def left_out(record: logging.LogRecord) -> str:
    """Return the text to append to a message after omitted ones; empty if none were omitted."""
    count = getattr(record, "left_out", 0)
    return f" ({count} more from this line of code were omitted before)" if count else ""


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a message may be shown unchanged; uvicorn's messages about WebSockets contain the path."""
    return record.name.split(".")[0] in _SHOWN_PACKAGES and "WebSocket %s" not in str(record.msg)


def is_logged(record: logging.LogRecord) -> bool:
    """Return whether a record is logged, as a handler's filter: of other packages only warnings and errors."""
    return record.levelno >= logging.WARNING or _is_shown(record)


class CleanFormatter(logging.Formatter):
    """Log formatter that removes text that must not be shown, and passes the record on to another formatter.

    Args:
        formatter: Formats the cleaned record.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a log line; the record itself is not changed."""
        clean = copy.copy(record)
        if record.name == _ACCESS:
            _clean_access(clean)
        elif not _is_shown(record):
            clean.msg, clean.args = _WITHHELD, None
        if record.exc_info and record.exc_info[1]:
            clean.exc_info, clean.exc_text = None, "\n".join(stack_without_messages(record.exc_info[1]))
        request = current_record()
        if request:
            clean.msg = f"[{request.request_id}] {clean.msg}"
        return self._formatter.format(clean) + left_out(record)


def _clean_access(record: logging.LogRecord) -> None:
    """Replace the path in an access log record, ``client - "method path version" status``, by the route's template."""
    args = record.args
    if isinstance(args, tuple) and len(args) == 5:
        request = current_record()
        client, method, _, *rest = args
        record.args = (client, known_method(str(method)), request.route if request else "-", *rest)
    else:
        record.msg, record.args = _WITHHELD, None


def stack_without_messages(error: BaseException) -> Iterator[str]:
    """Yield the stack lines and types of an exception and of its causes, without their messages."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from stack_without_messages(cause)
        yield "which led to:"
    yield from (line.rstrip("\n") for line in traceback.format_tb(error.__traceback__))
    yield f"{type(error).__module__}.{type(error).__qualname__}"


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    """Log a warning without its text, which can quote values of a DICOM file; for :func:`warnings.showwarning`."""
    logger.warning("%s in line %d of %s", category.__name__, lineno, "/".join(Path(filename).parts[-2:]))


def _show_thread_error(arguments: threading.ExceptHookArgs) -> None:
    """Log a thread's exception without its text; for :func:`threading.excepthook`, which would print it."""
    name = arguments.thread.name if arguments.thread else "?"
    logger.error("The thread %s ended with an error", name, exc_info=arguments.exc_value)


def clean_logs() -> None:
    """Make every log handler of this process show only cleaned lines. May be called again."""
    logging.getLogger(_UPSTREAM).setLevel(logging.WARNING)  # no handler shows less
    loggers = [logging.getLogger(), *(item for item in logging.root.manager.loggerDict.values())]
    for item in loggers:
        for handler in getattr(item, "handlers", ()):
            if not isinstance(handler.formatter, CleanFormatter):
                handler.setFormatter(CleanFormatter(handler.formatter or logging.Formatter()))
                handler.addFilter(is_logged)
                handler.addFilter(RateLimit())
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it prints file names on standard error
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # it is called by position
    threading.excepthook = _show_thread_error
