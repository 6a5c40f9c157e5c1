"""Records that programs read: help() explains their fields, and fields keep their old names for a while."""

import inspect
import warnings
from typing import Any, TypeVar, get_args

T = TypeVar("T")


def explained(record: type[T]) -> type[T]:
    """Of a NamedTuple, or of what @dataclass is about to make one: what ``help()`` shows names its fields.

    Each field is annotated ``Annotated[its type, "what it is"]``. The texts become a list in the class's
    docstring, and those of a named tuple's properties; what is left of the annotations are the plain types.
    """
    plain: dict[str, Any] = {}
    lines = []
    for name, annotation in record.__annotations__.items():
        kind, *texts = get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
        if not texts:
            raise TypeError(f"{record.__name__}.{name} has no explanation: Annotated[type, 'what it is']")
        plain[name] = kind
        lines.append(f"    {name}: {texts[0]}")
        if hasattr(record, "_fields"):
            getattr(record, name).__doc__ = texts[0]
    record.__annotations__ = plain
    if hasattr(record, "_fields"):
        record.__new__.__annotations__ = plain
    record.__doc__ = "\n".join([inspect.cleandoc(record.__doc__ or ""), "", "Fields:", *lines])
    return record


def renamed(old: str, new: str) -> property:
    """The old name of a field, for one release: it gives the new one's value, and warns."""

    def read(record: object) -> Any:
        kind = type(record).__name__
        warnings.warn(f"{kind}.{old} is now {kind}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(record, new)

    return property(read, doc=f"Deprecated, and gone in the next release: now ``{new}``.")
