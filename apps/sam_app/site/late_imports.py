"""Imports of MONAI Label's modules that happen when what they name is first used: the one list.

MONAI Label's server imports MONAI, its bundles and its training for functions that nothing here calls; MONAI then
imports all of itself, with scikit-learn, matplotlib, ignite and torchvision: most of what a start would take. In the
modules of this list ``from ... import name`` makes an object that imports and calls the real one when it is called, and
that ``isinstance`` understands. These modules import everything else as ever, and no installed file is changed.

Imported by the environment's Python when it starts, as :mod:`left_out` is, with the standard library alone.
"""

import builtins
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

LATE = {
    "monailabel.interfaces.app": ("monai.apps", "monailabel.interfaces.utils.wsi", "monailabel.tasks.train.bundle"),
    "monailabel.utils.others.generic": ("monai.apps", "monai.bundle", "monai.bundle.scripts"),
    "torchvision.ops.roi_align": ("torch._dynamo.utils",),
}
"""By module: from which modules it imports late. It calls these names or uses them in ``isinstance``, nothing else."""


class LateName:
    """A function or class of a module that is imported when it is first used.

    Args:
        module: The module's name.
        name: Its name there.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _real(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the real one."""
        return self._real()(*args, **kwargs)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real())


class _LateImports(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of :data:`LATE` where they are, and runs them with late imports."""

    def __init__(self) -> None:
        self._loaders: dict[str, importlib.machinery.SourceFileLoader] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if fullname in LATE else None
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return None
        self._loaders[fullname] = spec.loader
        spec.loader = self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        code = self._loaders[name].get_code(name)
        assert code is not None, f"{name} is a Python file"

        def late_import(
            asked: str,
            globals: Mapping[str, object] | None = None,
            locals: Mapping[str, object] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> Any:
            if fromlist and asked in LATE[name]:
                return SimpleNamespace(**{each: LateName(asked, each) for each in fromlist})
            return builtins.__import__(asked, globals, locals, fromlist or (), level)

        # The import statement calls the __import__ of its module's builtins.
        module.__dict__["__builtins__"] = {**builtins.__dict__, "__import__": late_import}
        exec(code, module.__dict__)  # noqa: S102 - the module's own code


def install() -> None:
    """Put the late imports in front of MONAI Label's modules; again: nothing."""
    if not any(isinstance(finder, _LateImports) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LateImports())


install()
