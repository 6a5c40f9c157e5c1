"""Records that programs read: batches of them, help() that explains their fields, and renamed fields."""

import inspect
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar, get_args, overload

from uringzc._send import BatchBase, Records
from uringzc.errors import counted

T = TypeVar("T")
_ORDER = "<" if sys.byteorder == "little" else ">"


def explained(record: type[T]) -> type[T]:
    """Of a NamedTuple, or of what @dataclass is about to make one: what ``help()`` shows names its fields.

    Each field is annotated ``Annotated[its type, "what it is"]``. The texts become a list in the class's
    docstring, and those of a named tuple's properties; what is left of the annotations are the plain types.
    """
    types: dict[str, Any] = {}
    lines = []
    for name, annotation in record.__annotations__.items():
        kind, *texts = get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
        if not texts:
            raise TypeError(f"{record.__name__}.{name} has no explanation: Annotated[type, 'what it is']")
        types[name] = kind
        lines.append(f"    {name}: {texts[0]}")
        if hasattr(record, "_fields"):
            getattr(record, name).__doc__ = texts[0]
    record.__annotations__ = types
    if hasattr(record, "_fields"):
        record.__new__.__annotations__ = types
    record.__doc__ = "\n".join([inspect.cleandoc(record.__doc__ or ""), "", "Fields:", *lines])
    return record


def snapshot(record: type[T], source: object, **others: Any) -> T:
    """A record of this moment: its fields are the attributes of `source`, except for `others`."""
    names = record.__annotations__.keys() - others
    return record(**{name: getattr(source, name) for name in names}, **others)


def renamed(old: str, new: str) -> property:
    """The old name of a field, for one release: it gives the new one's value, and warns."""

    def read(record: object) -> Any:
        kind = type(record).__name__
        warnings.warn(f"{kind}.{old} is now {kind}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(record, new)

    return property(read, doc=f"Deprecated, and gone in the next release: now ``{new}``.")


class Record(Generic[T]):
    """How records of one kind lie in memory, as C writes them, and the named tuple that is made of one.

    It has as many of the fields, the first ones. `unknown`: one that is None where it is negative.
    """

    def __init__(self, fields: Sequence[tuple[str, str]], kind: type[T], unknown: str = "") -> None:
        codes = {"u8": "Q", "i8": "q", "u4": "I", "i4": "i"}
        self.size = sum(int(code[1]) for _, code in fields)
        self.dtype = [(name, _ORDER + code) for name, code in fields]
        self.kind = kind
        used = fields[: len(kind._fields)]  # type: ignore[attr-defined]
        #: struct's, and n: see `unknown`
        self.codes = "".join("n" if name == unknown else codes[code] for name, code in used)

    def read(self, data: bytearray, at: int = 0) -> Iterator[T]:
        """The objects of those from byte `at` on."""
        return Records(data, at, self.size, self.codes, self.kind)


class Batch(BatchBase, Sequence[T]):
    """What one call reaped: a sequence whose items are made when they are accessed.

    The records are also one buffer that the batch owns: ``view`` (bytes), ``dtype`` (its fields, as numpy
    takes them) and ``numpy.asarray(batch)``, a structured array without a copy.
    """

    __slots__ = ()
    _data: bytearray
    _record: Record[T]

    def __init__(self, data: bytearray, record: Record[T]) -> None:
        self._data = data
        self._record = record
        self._size = record.size

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (self._data, self._record)

    def __iter__(self) -> Iterator[T]:
        return self._record.read(self._data)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "Batch[T]": ...
    def __getitem__(self, index: "int | slice") -> "T | Batch[T]":
        """One item, or a batch of some of the records."""
        size = self._record.size
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            return Batch(
                bytearray().join(self._data[i * size : (i + 1) * size] for i in chosen), self._record
            )
        at = range(len(self))[index]
        return next(self._record.read(self._data, at * size))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + (", ..." if len(self) > 3 else "")
        return f"<{counted(len(self), 'record')}: {shown}>"

    @property
    def view(self) -> memoryview:
        """The records, as bytes."""
        return memoryview(self._data)

    @property
    def dtype(self) -> list[tuple[str, str]]:
        """The fields of a record, as ``numpy.dtype`` takes them."""
        return list(self._record.dtype)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": (len(self),),
            "typestr": f"|V{self._record.size}",
            "descr": self.dtype,
            "data": self._data,
        }
