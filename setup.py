"""The two compiled modules; everything else is in pyproject.toml."""

import sysconfig
from pathlib import Path

from setuptools import Extension, setup

NATIVE = "uringzc/_native"

LAYERS = [Path(NATIVE), *(Path(NATIVE, layer) for layer in ("request", "udp", "tcp", "aio"))]
send = Extension(
    "uringzc._send",
    sorted(str(file) for layer in LAYERS for file in layer.glob("*.c")),
    depends=[str(header) for header in Path(NATIVE).rglob("*.h")],
    include_dirs=[NATIVE],
    extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden"],
    py_limited_api=not sysconfig.get_config_var("Py_GIL_DISABLED"),  # see request/python.h
)
setup(cffi_modules=["uringzc/_build.py:ffibuilder"], ext_modules=[send])
