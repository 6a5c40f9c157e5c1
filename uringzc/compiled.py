"""Methods of public classes that are compiled: the contract is read in Python, the code is C."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from uringzc._send import compiled_method

F = TypeVar("F", bound=Callable[..., Any])


def compiled(contract: F) -> F:
    """The compiled method that the decorated function describes, with its documentation and its signature.

    Its class derives from ``_send.Delegate``, and has named the compiled object with ``_delegate``. Its
    attributes are slots, with ``__dict__`` for the program's: CPython finds others four times as slowly.
    """
    signature = inspect.signature(contract)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()
    ]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    doc = f"{contract.__name__}{text.replace('(self', '($self', 1)}\n--\n\n{inspect.getdoc(contract)}"
    method: F = compiled_method(contract.__qualname__, doc)
    return method
