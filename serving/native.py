"""The C++ programs of `serving/cpp`: where the engines' libraries are, and building and running a program.

`python -m serving.native onnxruntime` prints the path of a library, for CMake and scripts.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import ServingError
from serving.signature import DEFAULT_SIGNATURE

SOURCES = Path(__file__).parent / "cpp"

_LIBRARIES = {
    "onnxruntime": ("onnxruntime", "capi/libonnxruntime.so.*"),
    "tensorflow": ("tensorflow", "libtensorflow_cc.so.2"),
}
_FILE_TYPES = {"float32": "<f4", "int32": "<i4"}
_ENGINES = {"onnx": "onnxruntime", "saved_model": "tensorflow"}


class TensorLike(Protocol):
    """Name, shape of a row and type of an input or output."""

    @property
    def name(self) -> str:
        """Name in the signature."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without the batch."""

    @property
    def dtype(self) -> str:
        """`float32` or `int32`."""


def write_column(folder: Path, name: str, column: NDArray[Any]) -> None:
    """Write the raw numbers of an input as the programs read them: NAME.f32, or NAME.i32.

    Raises:
        ServingError: The numbers are neither float32 nor int32.
    """
    column.astype(_file_type(column.dtype.name)).tofile(folder / _file_name(name, column.dtype.name))


def _file_name(name: str, dtype: str) -> str:
    return f"{name}.{_file_type(dtype)[1]}32"


def _file_type(dtype: str) -> str:
    if dtype not in _FILE_TYPES:
        raise ServingError(f"C++ programs take {' and '.join(_FILE_TYPES)}, received {dtype}")
    return _FILE_TYPES[dtype]


def find_library(engine: str) -> Path:
    """Return the shared library of `onnxruntime` or `tensorflow` inside the installed Python package.

    Raises:
        ServingError: An unknown engine, or the package or its library is not installed.
    """
    if engine not in _LIBRARIES:
        raise ServingError(f"no library named {engine!r}; there are: {', '.join(_LIBRARIES)}")
    package, pattern = _LIBRARIES[engine]
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        found = sorted(Path(folder).glob(pattern))
        if found:
            return found[0]
    raise ServingError(f"the Python package {package} with {pattern} is not installed")


def find_compiler() -> str | None:
    """Return the C++ compiler: the variable CXX, else g++ or clang++, else None."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    return None


def build(program: str, folder: Path, header: Path | None = None, flags: Sequence[str] = ()) -> Path:
    """Compile one program of `serving/cpp`.

    Args:
        program: Stem of its source file.
        folder: Where the executable goes.
        header: A header of `trackkeras export --cpp` to compile in, as the engine `generated`.
        flags: More options for the compiler of this program.

    Raises:
        ServingError: There is no compiler, or it refuses the program.
    """
    compiler = find_compiler()
    if compiler is None:
        raise ServingError("no C++ compiler: install g++ or name one in the variable CXX")
    target = folder / program
    command = ["-o", str(target)]
    if header is not None:
        command += [f'-DGENERATED_HEADER="{header.resolve()}"', f"-DGENERATED={header.stem}"]
    command += [str(SOURCES / f"{program}.cpp")]
    if "open_model.hpp" in (SOURCES / f"{program}.cpp").read_text():
        command += [str(path) for path in _engine_objects(compiler)]
    _compile(compiler, [*flags, *command, "-ldl", "-pthread"], f"{program}.cpp")
    return target


@cache
def _engine_objects(compiler: str) -> tuple[Path, ...]:
    """Compile what no header changes, once per process, and return the object files."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    sources = [SOURCES / f"{name}.cpp" for name in ("onnx_model", "rest_model", "saved_model")]
    _compile(compiler, ["-c", *map(str, sources)], "the engines", Path(folder.name))
    return tuple(Path(folder.name) / f"{source.stem}.o" for source in sources)


def _compile(compiler: str, words: Sequence[str], what: str, folder: Path | None = None) -> None:
    command = [compiler, "-std=c++17", "-O2", f"-I{SOURCES}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
        raise ServingError(f"{compiler} cannot compile {what}: {first}")


@dataclass(frozen=True)
class Program:
    """A built program.

    Attributes:
        path: The executable.
    """

    path: Path

    def run(self, *words: str | Path) -> list[Any]:
        """Run it and return what it prints, one JSON value per line.

        Raises:
            ServingError: It fails; the message is its own.
        """
        done = subprocess.run(
            [self.path, *map(str, words)], capture_output=True, text=True, check=False, errors="replace"
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            reason = lines[-1].removeprefix("error: ") if lines else f"exit code {done.returncode}"
            raise ServingError(f"{self.path.name}: {reason}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def apply(
        self,
        kind: str,
        model: str | Path,
        rows: Mapping[str, NDArray[Any]],
        inputs: Sequence[TensorLike],
        outputs: Sequence[TensorLike],
        signature: str = DEFAULT_SIGNATURE,
        batch: int = 4096,
    ) -> dict[str, NDArray[Any]]:
        """Run `apply` on some rows.

        Args:
            kind: `onnx`, `saved_model`, `rest` or `generated`.
            model: File, folder, address, or instruction set.
            rows: Input columns.
            inputs: Which of them the model takes.
            outputs: What it gives.
            signature: Name of the signature; an ONNX file has one, whatever the name.
            batch: Rows per call.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for tensor in inputs:
                write_column(folder, tensor.name, np.asarray(rows[tensor.name], tensor.dtype))
            words = ["--signature", signature, "--batch", str(batch), *engine_options(kind)]
            self.run(kind, model, folder, *words)
            return {
                tensor.name: np.fromfile(
                    folder / _file_name(tensor.name, tensor.dtype), _file_type(tensor.dtype)
                ).reshape(-1, *tensor.shape)
                for tensor in outputs
            }


def engine_options(kind: str) -> list[str]:
    """Return the options that tell a program where an engine's library is."""
    return ["--library", str(find_library(_ENGINES[kind]))] if kind in _ENGINES else []


if __name__ == "__main__":
    try:
        print(find_library(sys.argv[1] if len(sys.argv) > 1 else ""))
    except ServingError as error:
        sys.exit(f"error: {error}")
