"""The two compiled modules; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).parent / "uringzc"))
from _build import CFLAGS, require_liburing

require_liburing()
setup(
    cffi_modules=["uringzc/_build.py:ffibuilder"],
    ext_modules=[
        Extension(
            "uringzc._send",
            [f"uringzc/_native/{name}.c" for name in ("send", "arguments", "memory")],
            py_limited_api=True,
            extra_compile_args=CFLAGS,
        )
    ],
)
