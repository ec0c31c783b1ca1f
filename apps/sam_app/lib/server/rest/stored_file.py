"""HTTP responses with a file of a stored result: made if need be, conditional, with a name to save it under."""

import json
from datetime import UTC, datetime
from email.utils import format_datetime

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from lib.server.http.errors import UnknownResultError
from lib.server.rest.renderings import Renderings, check_file
from lib.server.rest.results import StoredResult
from lib.server.rest.schemas import NotFinished
from lib.server.rest.timestamps import print_timestamp


def file_response(
    request: Request, renderings: Renderings, result: StoredResult, name: str, media_type: str, *, inline: bool
) -> Response:
    """Return the response with the file's content; 304 if the client has it, and for HEAD only the headers.

    A result's files never change, so that its timestamp and the file's name are a strong validator (RFC 9110, 8.8.3),
    even before the file is made: a 304 does not need it. A cache must revalidate before each use, as not everybody may
    see every result.

    Args:
        request: GET or HEAD; its ``If-None-Match`` or ``If-Modified-Since`` is honoured (RFC 9110, 13.1).
        renderings: Makes the file if it does not exist yet.
        result: A result that is done.
        name: Name of the file in it.
        media_type: Media type of the file.
        inline: Whether browsers should display it rather than save it.

    Raises:
        UnknownResultError: If it has no such file, or was deleted meanwhile.
        ImageError, NoSpaceError, TimeLimitError: If the file cannot be made, as their messages say.
    """
    check_file(result, name)
    timestamp = print_timestamp(result.timestamp)
    made = datetime.fromtimestamp(int(result.timestamp), UTC)
    etag = f'"{timestamp}-{name}"'
    headers = {
        "ETag": etag,
        "Last-Modified": format_datetime(made, usegmt=True),
        "Cache-Control": "private, no-cache",
        "Vary": "Authorization",
        "SAM-Result": json.dumps(result.facts.as_dict()),
    }
    if _is_cached_by_client(request, etag, made):
        return Response(status_code=304, headers=headers)
    result = renderings.with_file(result, name)
    disposition = "inline" if inline else "attachment"
    headers["Content-Disposition"] = f'{disposition}; filename="segmentation-{timestamp}-{name}"'
    if request.method == "HEAD":
        headers["Content-Length"] = str(result.manifest.files[name])
        return Response(media_type=media_type, headers=headers)
    try:
        content = result.path(name).read_bytes()
    except FileNotFoundError:
        raise UnknownResultError(f"the result {timestamp} was deleted") from None
    return Response(content, media_type=media_type, headers=headers)


def _is_cached_by_client(request: Request, etag: str, made: datetime) -> bool:
    """Return whether the client's cached copy is the current file."""
    asked = request.headers.get("if-none-match")
    if asked is not None:
        tags = {tag.strip().removeprefix("W/") for tag in asked.split(",")}
        return "*" in tags or etag in tags
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        return made <= datetime.strptime(since, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return False


def queued_response(result: StoredResult, retry_after: int) -> JSONResponse:
    """Return 202: accepted, not finished yet."""
    body = NotFinished(timestamp=float(result.timestamp))
    return JSONResponse(body.model_dump(), status_code=202, headers={"Retry-After": str(retry_after)})
