"""Makes the docstrings of the library readable for Sphinx, as they are written for ``help()``."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

from sphinx.application import Sphinx

import uringzc
from uringzc import aio, jobs, testing

PUBLIC = (uringzc, aio, jobs, testing)

#: the classes that a program makes; of others, what their constructor takes is nobody's business
MADE = {"EventLoop", "Ring", "Scheduler", "TcpSender", "UdpSender"}

#: code that may be a public name, perhaps with parentheses; other code; a word with two capitals
_CODE = re.compile(
    r"``([A-Za-z_][\w.]*)(\(\))?``|``.*?``|`[^`]*`|(?<![\w.])((?:uringzc\.)?[A-Z][a-z]+[A-Z]\w+)", re.DOTALL
)
_ADDRESS = "tuple[str, int] | tuple[str, int, int, int]"
_FIELD = re.compile(r" {4}(\w+): (.*)")


def setup(app: Sphinx) -> None:
    """Connects all of this to autodoc."""
    app.connect("source-read", titled)
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("autodoc-process-signature", annotated)
    app.connect("autodoc-skip-member", left_out)


def titled(app: object, page: str, source: list[str]) -> None:
    """In a page: a link whose words are the name of a file gets the title of that page, or place in it."""
    source[0] = re.sub(r"\[[\w./-]+\.md\](\([\w./-]+\.md(#[\w-]+)?\))", r"[]\1", source[0])


def rewrite(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Lists the fields of a record as such, and links the names of what is public."""
    head, found, fields = linked("\n".join(lines), name).partition("\nFields:\n")
    listed = [_FIELD.sub(r"* ``\1``: \2", line.replace("*", r"\*")) for line in fields.splitlines()]
    lines[:] = [*(head + found).splitlines(), "", *listed, ""]


def linked(text: str, inside: str) -> str:
    """The text of a docstring, in which the names of what is public are links to it."""

    def link(found: re.Match[str]) -> str:
        name = found[1] or found[3]
        target = find(name, inside) if name else ""
        role = "class" if target in _classes() else "obj"
        return f":py:{role}:`{name}{found[2] or ''} <{target}>`" if target else found[0]

    return _CODE.sub(link, text)


def find(name: str, inside: str) -> str:
    """The full name of what a docstring of `inside` calls so, "" if it is nothing public."""
    module = next(m for m in sorted(PUBLIC, key=lambda m: -len(m.__name__)) if inside.startswith(m.__name__))
    holder = inside.removeprefix(f"{module.__name__}.").partition(".")[0]
    for start in (f"{module.__name__}.{holder}.{name}", f"{module.__name__}.{name}", f"uringzc.{name}", name):
        if start in _names() and start != inside:
            return start
    return ""


@cache
def _names() -> set[str]:
    return {name for module in PUBLIC for name in names(module)}


@cache
def _classes() -> set[str]:
    return {f"{m.__name__}.{name}" for m in PUBLIC for name in m.__all__ if inspect.isclass(getattr(m, name))}


def names(module: Any) -> Iterator[str]:
    """What a module exports, and the public attributes of its classes that have a docstring."""
    for name in module.__all__:
        thing = getattr(module, name)
        yield f"{module.__name__}.{name}"
        if inspect.isclass(thing):
            fields = getattr(thing, "_fields", ())
            for attribute, value in inspect.getmembers(thing):
                own = attribute[0] != "_" and attribute not in fields and not hasattr(object, attribute)
                if own and getattr(value, "__doc__", None) and not isinstance(value, (int, str, tuple)):
                    yield f"{module.__name__}.{name}.{attribute}"


def annotated(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """A signature with the public names of what it takes; of a compiled method, that of its Python source."""
    if signature is None or (what == "class" and name.rpartition(".")[2] not in MADE):
        return ("", None) if signature else None
    if what == "method" and not inspect.isfunction(thing):
        holder, _, method = name.rpartition(".")
        module, _, class_name = holder.rpartition(".")
        if found := _in_source(getattr(sys.modules[module], class_name), method):
            signature, returns = found
    return _public(signature), returns and _public(returns)


def _public(signature: str) -> str:
    """With names by which a program imports them."""
    for defined, public in _homes().items():
        signature = signature.replace(defined, public)
    signature = re.sub(r"<class '(asyncio)[\w.]+\._Unix(\w+)'>", r"\1.\2", signature)
    return signature.replace(_ADDRESS, "Address").replace("typing_extensions.Buffer", "Buffer")


@cache
def _homes() -> dict[str, str]:
    exported = [
        (getattr(module, name), f"{module.__name__}.{name}") for module in PUBLIC for name in module.__all__
    ]
    return {f"{thing.__module__}.{thing.__qualname__}": name for thing, name in exported}


def _in_source(holder: type, name: str) -> tuple[str, str | None] | None:
    for base in holder.__mro__:
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # compiled, too
            continue
        for node in getattr(tree, "body", ()):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                del (node.args.posonlyargs or node.args.args)[0]  # self
                returns = ast.unparse(node.returns).strip("'\"") if node.returns else None
                return f"({_plain(node.args)})", returns
    return None


def _plain(arguments: ast.arguments) -> str:
    """As source, with annotations that are not quoted."""
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for argument in [*every, arguments.vararg, arguments.kwarg]:
        text = argument and argument.annotation
        if argument and isinstance(text, ast.Constant) and isinstance(text.value, str):
            argument.annotation = ast.parse(text.value, mode="eval").body
    return ast.unparse(arguments)


def left_out(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of a named tuple, which are in the list of its docstring, and their old names."""
    old = (getattr(thing, "__doc__", None) or "").startswith("Deprecated")
    return True if old or type(thing).__name__ == "_tuplegetter" else None
