"""Methods of public classes that are compiled: Python has the signature and the contract, C the code."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from uringzc._send import compiled_method

F = TypeVar("F", bound=Callable[..., Any])


def compiled(contract: F) -> F:
    """Replaces the decorated function by the compiled method of that name (_native/delegate.c).

    The method gets the function's docstring and signature. Its class derives from ``_send.Delegate`` and sets
    the compiled object with ``_delegate()``; its attributes are slots, with ``__dict__`` for the program's:
    without slots, CPython takes four times as long to find the method.
    """
    signature = inspect.signature(contract)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()
    ]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    doc = f"{contract.__name__}{text.replace('(self', '($self', 1)}\n--\n\n{inspect.getdoc(contract)}"
    method: F = compiled_method(contract.__qualname__, doc)
    return method
