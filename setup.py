"""The two compiled modules; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

NATIVE = "uringzc/_native"

FILES = [
    *("module", "send", "sockets", "arguments", "memory", "notifiers", "closed", "delegate"),
    *("arena", "routes", "staging", "gather", "regions", "admission", "trains", "plain", "timer"),
    *("polling", "calls", "sender"),
    *("flow", "steps", "stream"),
]
send = Extension(
    "uringzc._send",
    [f"{NATIVE}/{name}.c" for name in FILES],
    depends=[str(header) for header in Path(NATIVE).glob("*.h")],
    extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden"],
    py_limited_api=True,
)
setup(cffi_modules=["uringzc/_build.py:ffibuilder"], ext_modules=[send])
