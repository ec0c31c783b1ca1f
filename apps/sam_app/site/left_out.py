"""What MONAI Label and others require and this installation leaves out: the one list, with a reason each.

``scripts/lock`` makes the lock without these packages, and ``scripts/setup`` has the environment's Python import this
file when it starts (it uses the standard library alone). MONAI Label imports some of them when its server starts; its
modules that do are replaced by stand-ins, whose functions and classes raise what is missing when they are called. A
package that is installed all the same is used.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, NoReturn


class LeftOut(NamedTuple):
    """A package that is left out.

    Args:
        package: Its name on the package index.
        reason: Why, and what is lost.
        imported_as: The name under which it is imported, where that differs.
        stand_ins: MONAI Label's modules that cannot be imported without it and are imported by its server.
    """

    package: str
    reason: str
    imported_as: str = ""
    stand_ins: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The name under which it is imported."""
        return self.imported_as or self.package.replace("-", "_")


LEFT_OUT = (
    LeftOut(
        "pydicom-seg",
        "does not work with pydicom 3; highdicom makes and reads DICOM SEG here. Lost: DICOM SEG of labels on XNAT",
        stand_ins=("monailabel.datastore.utils.convert",),
    ),
    LeftOut(
        "itk",
        "1.5 GB; SimpleITK, nibabel and pynrrd read and write here. Lost: the writers of MONAI Label's own tasks",
        stand_ins=("monailabel.transform.writer",),
    ),
    LeftOut(
        "girder-client",
        "talks to a Digital Slide Archive; whole slides are not served here. Lost: that kind of datastore",
        stand_ins=("monailabel.datastore.dsa",),
    ),
    LeftOut(
        "numpymaxflow",
        "is not published for Python 3.12 and later. Lost: MONAI Label's own tasks for scribbles",
        stand_ins=("monailabel.scribbles.utils",),
    ),
    LeftOut(
        "shapely",
        "outlines of masks on whole slides. Lost: MONAI Label's own transforms for them",
        stand_ins=("monailabel.transform.post",),
    ),
    LeftOut("openslide-python", "reads whole slides, which are not served here", imported_as="openslide"),
    LeftOut("openslide-bin", "reads whole slides, which are not served here"),
    LeftOut("mlflow", "0.3 GB with pyarrow and pandas. Lost: tracking of MONAI Label's own training tasks"),
    LeftOut("tensorboard", "curves of MONAI Label's own training tasks are lost"),
    LeftOut("lmdb", "MONAI's dataset cached in LMDB is lost"),
    LeftOut("gdown", "downloads from Google Drive; nothing is downloaded from there"),
    LeftOut("fire", "the command line of MONAI bundles is lost"),
    LeftOut("imageio", "scikit-image's reading and writing of image files is lost; Pillow does that here"),
    LeftOut("ninja", "compiles extensions of PyTorch; NNCF's quantization during training is lost"),
    LeftOut("pynetdicom", "DIMSE; nothing imports it"),
    LeftOut("expiringdict", "nothing imports it"),
    LeftOut("h2", "HTTP/2 of httpx, which blosc2 asks for; nothing here speaks it"),
    LeftOut("openvino-telemetry", "reports use to the outside; nothing leaves the institution"),
)


def overrides() -> str:
    """What makes ``uv pip compile --override`` leave the packages out: requirements that never apply."""
    return "".join(f"{left_out.package} ; python_version < '3'\n" for left_out in LEFT_OUT)


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for modules whose package is not installed; for no other module."""

    def __init__(self) -> None:
        self._needs = {name: left_out for left_out in LEFT_OUT for name in left_out.stand_ins}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        needed = self._needs.get(fullname)
        if needed is None or importlib.util.find_spec(needed.module) is not None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        left_out = self._needs[module.__name__]

        def stand_in(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _missing(f"{module.__name__}.{name}", left_out)

        module.__getattr__ = stand_in  # type: ignore[method-assign]  # PEP 562


def _missing(name: str, left_out: LeftOut) -> type:
    """A class whose name can be imported and whose call, as of a function or a class, raises."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise ModuleNotFoundError(
            f"{name} needs {left_out.package}, which this installation leaves out ({left_out.reason})",
            name=left_out.module,
        )

    return type(name.rpartition(".")[2], (), {"__new__": refuse})


def install() -> None:
    """Put the stand-ins in front of MONAI Label's modules; again: nothing."""
    if not any(isinstance(finder, _StandIns) for finder in sys.meta_path):
        sys.meta_path.insert(0, _StandIns())


if __name__ == "__main__":
    print(overrides(), end="")
else:
    install()
