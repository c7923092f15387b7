"""Compiles the native forward step for this processor at first use, and loads it.

The library lands in the user's cache under a name made from the sources, the compiler, its flags and the processor's
features, so an upgrade or another machine on the same home folder compiles its own. Without a compiler the torch path
serves. ``AGENTSYS_NATIVE_KERNELS=off`` forces that.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from agentsys.serving.torch_engine.kernels_abi import NativeBatch, NativeModelTable

SOURCES = Path(__file__).parent / "native"
MAIN_SOURCE = "step.cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-pthread")
NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
COMPILE_SECONDS = 300

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernels:
    """The loaded library, or None with the reason why there is none."""

    library: ctypes.CDLL | None
    reason: str


@functools.cache
def kernels() -> Kernels:
    """Return this machine's kernels, compiling them the first time (some seconds). Never raises."""
    if os.environ.get("AGENTSYS_NATIVE_KERNELS", "").lower() in ("off", "0", "false"):
        return Kernels(None, "switched off by AGENTSYS_NATIVE_KERNELS")
    if platform.system() != "Linux":
        return Kernels(None, f"not built for {platform.system()}")
    compiler = find_compiler()
    if compiler is None:
        return Kernels(None, f"no C++ compiler found (looked for {', '.join(COMPILERS)})")
    try:
        return Kernels(load(build(compiler)), f"compiled with {compiler}")
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        logger.warning("native kernels are unavailable, the slower torch path serves: %s", detail)
        return Kernels(None, f"{compiler} failed: {str(detail).strip()[-400:]}")


def available() -> bool:
    """Tell whether the native kernels run here; compiles them if need be."""
    return kernels().library is not None


def find_compiler() -> str | None:
    """Return the path of ``$CXX`` or of the first known C++ compiler."""
    candidates = (os.environ.get("CXX"), *COMPILERS)
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def build(compiler: str, architecture: str = NATIVE) -> Path:
    """Return the library for ``architecture`` (a compiler flag), compiling it where it is not in the cache.

    Raises ``OSError`` or ``subprocess.SubprocessError`` when the compiler cannot run or refuses.
    """
    flags = [*FLAGS, architecture]
    target = Path(platformdirs.user_cache_dir("agentsys")) / "kernels" / f"step-{_fingerprint(compiler, flags)}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        output = Path(folder) / target.name
        command = [compiler, *flags, str(SOURCES / MAIN_SOURCE), "-o", str(output)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        # A rename is atomic: two processes that compile at once leave one whole library.
        output.replace(target)
    return target


def _fingerprint(compiler: str, flags: list[str]) -> str:
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=30).stdout
    digest = hashlib.sha256(version)
    for text in (*flags, _processor_features()):
        digest.update(text.encode() + b"\0")
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:20]


def _processor_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("flags", "Features", "model name", "CPU part")
    return "\n".join(next((line for line in lines if line.startswith(name)), "") for name in wanted)


def load(path: Path) -> ctypes.CDLL:
    """Open a built library and declare its functions; raises ``OSError`` for a damaged file."""
    library = ctypes.CDLL(str(path))
    library.agentsys_open.argtypes = [ctypes.POINTER(NativeModelTable), ctypes.c_int64]
    library.agentsys_open.restype = ctypes.c_void_p
    library.agentsys_step.argtypes = [ctypes.c_void_p, ctypes.POINTER(NativeBatch)]
    library.agentsys_step.restype = ctypes.c_int
    library.agentsys_close.argtypes = [ctypes.c_void_p]
    library.agentsys_close.restype = None
    return library
