"""The Python client's reference: a page for mkdocstrings, and what Griffe has to know to read the client's source."""

from __future__ import annotations

import re
from typing import Any

import griffe

PACKAGE = "sam_app_client"

CHAPTERS = {
    "Clients": ("Client", "AsyncClient"),
    "Results": ("Result", "AsyncResult", "results.SegmentedImage", "Volume"),
    "Prompts": ("Prompts", "StartingPrompts", "prompts.Options", "VolumePrompts", "Scribble", "Lasso"),
    "Images, masks and labels": ("ImageInput", "MaskInput", "LabelInput", "StoredImage"),
    "State and learning": ("Health", "Training", "LearnedModel", "LearnedVersion"),
    "Errors": ("SamAppError", "ApiError", "ConnectionFailedError", "NotFinishedError", "VersionMismatchError"),
}
"""All public names of the client, and the bases of some, in the order of the page."""

_ROLE = re.compile(r":(?:attr|class|data|func):`(\w+)`")
_SHORT = {"AsyncClient", "AsyncResult"}  # their methods are those of Client and Result


def page() -> str:
    """Return the page in Markdown, with a directive for each public name."""
    lines = [
        "# Python client: reference",
        "",
        "Made of the docstrings of `clients/python`. [How to use it](python.md) is told with examples.",
    ]
    for chapter, names in CHAPTERS.items():
        lines += ["", f"## {chapter}"]
        for name in names:
            lines += ["", f"::: {PACKAGE}.{name}"]
            if name in _SHORT:
                lines += ["    options:", "      members: false"]
    return "\n".join(lines) + "\n"


class ClientMethods(griffe.Extension):
    """Makes methods of ``name = blocking(module.operation)``, and links of Sphinx's roles, which Markdown has not."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Change what was read of the client."""
        if pkg.name == PACKAGE:
            public = {name for names in CHAPTERS.values() for name in names}
            for module in pkg.modules.values():
                for cls in module.classes.values():
                    _make_methods(pkg, cls)
                    for method in cls.functions.values():
                        _show_defaults(pkg, method)
                _make_links(module, public)


def _make_methods(package: griffe.Module, cls: griffe.Class) -> None:
    for name, attribute in list(cls.attributes.items()):
        made = attribute.value
        if isinstance(made, griffe.ExprCall) and str(made.function) in ("blocking", "awaitable"):
            operation = package[str(made.arguments[0])]
            _self, *others = operation.parameters
            method = griffe.Function(
                name,
                parameters=griffe.Parameters(griffe.Parameter("self"), *others),
                returns=_result(operation.returns, cls),
                docstring=_copy(operation.docstring),
                lineno=attribute.lineno,
                endlineno=attribute.endlineno,
            )
            if str(made.function) == "awaitable":
                method.labels.add("async")
            cls.set_member(name, method)


def _copy(docstring: griffe.Docstring) -> griffe.Docstring:
    """Return another one, which belongs to another method: each client has its own type of result."""
    return griffe.Docstring(docstring.value, parser=docstring.parser, parser_options=docstring.parser_options)


def _show_defaults(package: griffe.Module, method: griffe.Function) -> None:
    """Put the value of a constant that is a parameter's default in its place: 600.0 for ``WAIT_S``."""
    constants = {name: value for module in package.modules.values() for name, value in module.attributes.items()}
    for parameter in method.parameters:
        if str(parameter.default) in constants:
            parameter.default = constants[str(parameter.default)].value


def _result(returns: Any, cls: griffe.Class) -> Any:
    """What a method returns whose operation is ``Operation[...]``; a client's own kind of result is ``R`` there."""
    inner = returns.slice
    return cls.bases[0].slice if str(inner) == "R" else inner  # type: ignore[union-attr]


def _make_links(thing: griffe.Object, public: set[str]) -> None:
    if thing.docstring:
        thing.docstring.value = _ROLE.sub(lambda match: _link(match[1], public), thing.docstring.value)
    for member in thing.members.values():
        if isinstance(member, griffe.Object):
            _make_links(member, public)


def _link(name: str, public: set[str]) -> str:
    return f"[`{name}`][{PACKAGE}.{name}]" if name in public else f"`{name}`"
