"""The REST reference: a page of Markdown, made of the app's OpenAPI document, without a server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_SPACES = re.compile(r"\s+")
_BAR = r"\|"

_INTRODUCTION = """# REST: all routes

Made of the app's OpenAPI document, which each server has at `/openapi.json`; `/docs` there is a page to try them out.
[How to use them](rest.md) is told with examples. With a [login](operations.md#login) all but those that say so want
`Authorization: Bearer <key>`. The protocols of [nnInteractive](nninteractive.md) and [ITK-SNAP](itksnap.md) are their
clients' own, and are not listed here.
"""


def openapi() -> Schema:
    """Return the OpenAPI document of all routes, with those for a login."""
    from fastapi import FastAPI  # here, as these imports take seconds

    from lib.server.app import include_routers
    from lib.version import VERSION

    app = FastAPI(title="SAM segmentation", version=VERSION)
    include_routers(app, with_login=True, with_itksnap=False)
    return app.openapi()


def page(document: Schema) -> str:
    """Return the page in Markdown.

    Args:
        document: As of :func:`openapi`.
    """
    schemas = document["components"]["schemas"]
    chapters: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines = chapters.setdefault(operation["tags"][0], [])
            lines += _operation(f"{method.upper()} {path}", operation, schemas)
    lines = _INTRODUCTION.splitlines()
    for tag, of_tag in chapters.items():
        lines += ["", f"## {tag}", *of_tag]
    lines += ["", "## Schemas"]
    for name, schema in schemas.items():
        if _is_listed(name, schema):
            lines += ["", f"### {name} {{ #{_anchor(name)} }}", *_paragraph(schema.get("description", ""))]
            lines += _fields(schema, schemas)
    return "\n".join(lines) + "\n"


def _operation(route: str, operation: Schema, schemas: Schema) -> Iterator[str]:
    yield from ("", f"### `{route}`", "", f"{operation['summary']}.")
    yield from _paragraph(operation.get("description", ""))
    if "security" not in operation:
        yield from ("", "Needs no login.")
    parameters = [
        (one["name"], one["in"], one["schema"], one.get("required", False)) for one in operation.get("parameters", [])
    ]
    if parameters:
        yield from ("", "| Parameter | In | Type | |", "| --- | --- | --- | --- |")
        for name, place, schema, required in parameters:
            yield _row(f"`{name}`", place, _type(schema, schemas), _about(schema, required))
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        yield from ("", f"Body: `{media}`.")
        schema = body["schema"]
        if "$ref" in schema:
            yield from _fields(_referenced(schema, schemas), schemas)
        else:
            yield from ("", f"It is {_type(schema, schemas)}.")
    yield from ("", "| Status | | Content |", "| --- | --- | --- |")
    for status, response in sorted(operation["responses"].items()):
        content = [
            _type(body["schema"], schemas) if "schema" in body else f"`{media}`"
            for media, body in response.get("content", {}).items()
        ]
        yield _row(status, response["description"], " or ".join(filter(None, content)))


def _fields(schema: Schema, schemas: Schema) -> Iterator[str]:
    if not schema.get("properties"):
        return
    yield from ("", "| Field | Type | |", "| --- | --- | --- |")
    for name, field in schema["properties"].items():
        yield _row(f"`{name}`", _type(field, schemas), _about(field, name in schema.get("required", [])))


def _about(schema: Schema, required: bool) -> str:
    """What a table says of a parameter or a field."""
    text = str(schema.get("description", "")).rstrip(".")
    default = schema.get("default")
    if required:
        text = f"Required. {text}".rstrip()
    elif default not in (None, "", []):
        text = f"{text}{'; ' if text else ''}default `{default if isinstance(default, str) else json.dumps(default)}`"
    return text


def _type(schema: Schema, schemas: Schema) -> str:
    """A type in words, with links to schemas."""
    if "$ref" in schema:
        name, target = schema["$ref"].rpartition("/")[2], _referenced(schema, schemas)
        return f"[{name}](#{_anchor(name)})" if _is_listed(name, target) else _type(target, schemas)
    if "anyOf" in schema:
        return " or ".join(_type(one, schemas) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "")
    if kind == "array":
        items = schema.get("items", {})
        return f"list of {_type(items, schemas)}" if items else "list"
    if "contentMediaType" in schema:
        return "file"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object whose values are {_type(schema['additionalProperties'], schemas)}"
    return kind + _bounds(schema)


def _bounds(schema: Schema) -> str:
    for low, high, unit in (("minimum", "maximum", ""), ("minLength", "maxLength", " characters")):
        if low in schema and high in schema:
            return f", {schema[low]:g} to {schema[high]:g}{unit}"
        if low in schema:
            return f", at least {schema[low]:g}{unit}"
        if high in schema:
            return f", at most {schema[high]:g}{unit}"
    if "exclusiveMinimum" in schema:
        return f", above {schema['exclusiveMinimum']:g}"
    return ""


def _is_listed(name: str, schema: Schema) -> bool:
    """Whether a schema has a section of its own: not a list of words, and not the form of one route."""
    return "enum" not in schema and not name.startswith("Body_")


def _referenced(schema: Schema, schemas: Schema) -> Schema:
    found: Schema = schemas[schema["$ref"].rpartition("/")[2]]
    return found


def _anchor(name: str) -> str:
    return f"schema-{name.lower()}"


def _paragraph(text: str) -> list[str]:
    return ["", text.strip()] if text.strip() else []


def _row(*cells: str) -> str:
    return f"| {' | '.join(_SPACES.sub(' ', cell).replace('|', _BAR) for cell in cells)} |"
