"""Logs that can be shown to anybody who runs the server: no patient's name, file's name, path or image's id in them.

MONAI Label and the libraries below it write whole requests, paths and ids into their messages, and exceptions quote
what they were given. There is no telling such words from others afterwards, so that the rule is one of origin:

* Messages of this app and of uvicorn are shown: they are written, or were read, to name nothing of a patient.
* Of everybody else only warnings and errors are shown, without their words: the package and line that said it.
* Exceptions are shown as their types and the lines of code that they passed, without their words.
* uvicorn's access log (``--access_log``) shows the route's template, neither path nor query.
* Python's warnings are shown as their category and the line that warned.
* A line of code that writes very often is shown at times, with the number of those left out.

Messages that are written while a request is worked on begin with its id, which the audit log and the answer's header
``X-Request-ID`` have, too. What MONAI Label prints before it loads the app (the command line) is out of reach.
"""

from __future__ import annotations

import copy
import logging
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import SimpleITK

from lib.base.request_record import current_record
from lib.server.observe.log_rate import RateLimit, left_out
from lib.server.observe.template import known_method

logger = logging.getLogger(__name__)

_SHOWN = ("lib", "main", "uvicorn")
_ACCESS = "uvicorn.access"
_UPSTREAM = "monailabel"
_OF_REQUESTS = ("monailabel.tasks.infer.basic_infer", "monailabel.interfaces.utils.transform")
"""Those of MONAI Label's loggers that set their level anew for each request."""
_WITHHELD = "(message withheld: it could name a patient; this is the line of code that wrote it)"


def _is_shown(record: logging.LogRecord) -> bool:
    """Whether the message may be shown as it is. Uvicorn's on WebSockets hold the path."""
    return record.name.split(".")[0] in _SHOWN and "WebSocket %s" not in str(record.msg)


def drop_chatter(record: logging.LogRecord) -> bool:
    """A handler's filter: other packages are heard from warnings upwards."""
    return record.levelno >= logging.WARNING or _is_shown(record)


class CleanFormatter(logging.Formatter):
    """Takes the words out of a record that are not to be shown, then has it formatted as before.

    Args:
        formatter: Formats the cleaned record.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        """The text of a log line; the record itself stays as it is."""
        clean = copy.copy(record)
        if record.name == _ACCESS:
            _clean_access(clean)
        elif not _is_shown(record):
            clean.msg, clean.args = _WITHHELD, None
        if record.exc_info and record.exc_info[1]:
            clean.exc_info, clean.exc_text = None, "\n".join(stack_without_words(record.exc_info[1]))
        request = current_record()
        if request:
            clean.msg = f"[{request.request_id}] {clean.msg}"
        return self._formatter.format(clean) + left_out(record)


def _clean_access(record: logging.LogRecord) -> None:
    """``client - "method path version" status`` with the route's template for the path."""
    args = record.args
    if isinstance(args, tuple) and len(args) == 5:
        request = current_record()
        client, method, _, *rest = args
        record.args = (client, known_method(str(method)), request.route if request else "-", *rest)
    else:
        record.msg, record.args = _WITHHELD, None


def stack_without_words(error: BaseException) -> Iterator[str]:
    """The lines of code that an exception and those that caused it passed, and their types.

    Args:
        error: Its message and those of its causes are left out.
    """
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from stack_without_words(cause)
        yield "which led to:"
    yield from (line.rstrip("\n") for line in traceback.format_tb(error.__traceback__))
    yield f"{type(error).__module__}.{type(error).__qualname__}"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """For :func:`warnings.showwarning`: a library's warning can quote a DICOM file's values."""
    logger.warning("%s in line %d of %s", category.__name__, lineno, "/".join(Path(filename).parts[-2:]))


def _show_thread_error(arguments: threading.ExceptHookArgs) -> None:
    """For :func:`threading.excepthook`, which would print the exception's words."""
    name = arguments.thread.name if arguments.thread else "?"
    logger.error("The thread %s ended by an error", name, exc_info=arguments.exc_value)


def _drop_early() -> None:
    """Have MONAI Label's loggers make no messages that no handler shows.

    A level that is set makes Python forget what is enabled in any logger, of which there are a thousand, so that two
    loggers that set theirs for each request take two milliseconds of it. They have no level of their own from here on.
    """
    logging.getLogger(_UPSTREAM).setLevel(logging.WARNING)
    for name in _OF_REQUESTS:
        item = logging.getLogger(name)
        item.level = logging.NOTSET
        item.setLevel = lambda level: None  # type: ignore[method-assign]


def clean_logs() -> None:
    """Have every handler of this process show clean lines only. Calling it again does no harm."""
    _drop_early()
    loggers = [logging.getLogger(), *(item for item in logging.root.manager.loggerDict.values())]
    for item in loggers:
        for handler in getattr(item, "handlers", ()):
            if not isinstance(handler.formatter, CleanFormatter):
                handler.setFormatter(CleanFormatter(handler.formatter or logging.Formatter()))
                handler.addFilter(drop_chatter)
                handler.addFilter(RateLimit())
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it names files on standard error
    warnings.showwarning = _show_warning
    threading.excepthook = _show_thread_error
