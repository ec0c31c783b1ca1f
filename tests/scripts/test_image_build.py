"""What an image leaves out of its packages, in a folder with a few."""

from __future__ import annotations

from pathlib import Path

from image_build import slim


def write(site_packages: Path, *paths: str) -> None:
    for path in paths:
        (site_packages / path).parent.mkdir(parents=True, exist_ok=True)
        (site_packages / path).write_text("x")


def write_package(site_packages: Path, name: str, *paths: str) -> None:
    info = f"{name}-1.0.dist-info"
    write(site_packages, *paths)
    (site_packages / info).mkdir()
    (site_packages / info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (site_packages / info / "RECORD").write_text(
        "".join(f"{path},,\n" for path in (*paths, f"{info}/METADATA", f"{info}/RECORD"))
    )


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_packages_go_with_all_their_files_and_others_stay(tmp_path: Path) -> None:
    site_packages = tmp_path / "lib" / "python3.11" / "site-packages"
    write_package(site_packages, "pip", "pip/__init__.py", "../../../bin/pip")
    write(site_packages, "pip/__pycache__/__init__.cpython-311.pyc")
    write_package(site_packages, "triton", "triton/language/core.py", "triton/lib.a")
    write(tmp_path, "bin/python", "monailabel/sample-apps/radiology/main.py")
    write(
        site_packages,
        "torch/include/ATen.h",
        "torch/lib/libtorch.so",
        "torch/testing/__init__.py",
        "scipy/tests/test_x.py",
    )
    write(
        site_packages,
        "torch/nn/tests/deep/tests/test_y.py",
        "pydicom/data/test_files/a.dcm",
        "nvidia/cu13/include/cuda.h",
    )
    kept = ["pydicom/data/test_files/a.dcm", "torch/lib/libtorch.so", "torch/testing/__init__.py"]
    of_triton = ["triton-1.0.dist-info/METADATA", "triton-1.0.dist-info/RECORD", "triton/language/core.py"]

    slim("cuda", site_packages)
    assert left(site_packages) == [*kept, *of_triton]
    assert left(tmp_path / "bin") == ["python"] and not (tmp_path / "monailabel").exists()
    slim("cpu", site_packages)
    assert left(site_packages) == kept
    assert not (site_packages / "triton").exists() and not (site_packages / "torch" / "include").exists()
