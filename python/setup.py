"""Puts libmyelon_ccl.so into the wheel: built by Cargo, or the file that MYELON_CCL_LIB names."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

LIBRARY = "libmyelon_ccl.so"
WORKSPACE = Path(__file__).resolve().parent.parent


def shared_library() -> Path:
    prebuilt = os.environ.get("MYELON_CCL_LIB")
    if prebuilt:
        path = Path(prebuilt)
        if not path.is_file():
            raise SystemExit(
                f"MYELON_CCL_LIB is {prebuilt!r}, which is no file: name {LIBRARY}, or unset it to build with cargo"
            )
        return path
    if not (WORKSPACE / "crates" / "myelon-c").is_dir() or shutil.which("cargo") is None:
        raise SystemExit(
            f"{LIBRARY} is built by cargo from the source tree of myelon-ccl, and one of the two is missing: "
            "install Rust and build in a checkout, name a built library in MYELON_CCL_LIB, or install a wheel"
        )
    subprocess.run(["cargo", "build", "--release", "--package", "myelon-c"], cwd=WORKSPACE, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", WORKSPACE / "target"))
    return WORKSPACE / target / "release" / LIBRARY


class BuildWithLibrary(build_py):
    def run(self) -> None:
        super().run()
        # An editable installation runs from the sources, so the library goes there.
        root = Path(__file__).resolve().parent / "src" if self.editable_mode else Path(self.build_lib)
        destination = root / "myelon_ccl" / LIBRARY
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shared_library(), destination)


class PlatformWheel(bdist_wheel):
    """A wheel of any Python 3: the library is loaded by ctypes and knows no Python."""

    def get_tag(self):
        built = Path(self.bdist_dir or "") / "myelon_ccl" / LIBRARY
        data = (built if built.is_file() else shared_library()).read_bytes()
        # The newest version of a glibc symbol that the library asks for is the oldest glibc it runs on.
        needed = max((int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)\0", data)), default=17)
        return "py3", "none", f"manylinux_2_{max(needed, 17)}_{platform.machine()}"


class BinaryDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel}, distclass=BinaryDistribution)
