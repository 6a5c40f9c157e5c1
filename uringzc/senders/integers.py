"""Arrays of integers, which the compiled part reads from memory without making an object of each."""

from array import array
from collections.abc import Iterator
from typing import Any, Protocol

#: format of a memoryview -> `kind` for the compiled part: 4 or 8 bytes, -4 if they are signed
_KINDS = {"q": 8, "Q": 8, "l": 8, "L": 8, "n": 8, "N": 8, "i": -4, "I": 4}


class Integers(Protocol):
    """A sequence or an array of ints: a list, an array.array, a numpy array."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def in_memory(name: str, values: Integers) -> tuple[memoryview, int]:
    """A view of the values as integers of 32 or 64 bits, and its `kind`."""
    try:
        view = memoryview(values)  # type: ignore[arg-type]
    except TypeError:
        view = memoryview(array("q", values))
    kind = view.format.lstrip("@=<") if view.format else ""
    if view.ndim != 1 or not view.c_contiguous:
        raise TypeError(f"{name} is an array of one dimension without gaps: copy it, with .copy() say")
    if kind in ("b", "B", "h", "H"):
        return memoryview(array("q", view.tolist())), _KINDS["q"]
    if kind not in _KINDS:
        raise TypeError(f"{name} is an array of integers, not of format {view.format!r}")
    return view, _KINDS[kind]
