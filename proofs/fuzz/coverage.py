"""Which public methods and parameters were called: so that nobody thinks that more is tested than is."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from proofs.fuzz import faces


def show(console: Console, calls: Counter[str], only: str, every: bool) -> list[str]:
    """Prints a row for each class, or with `every` for each parameter. Returns what was not called."""
    table = Table("class", "methods", "calls", "parameters", "not reached", title="Calls")
    missed_at_all: list[str] = []
    for face in [face for face in faces.CLASSES if not only or face in faces.GROUPS[only]]:
        methods = [method for method in faces.methods().values() if method.face == face]
        parameters = [f"{method.full} {name}" for method in methods for name in method.parameters]
        missed = [name for name in [*(m.full for m in methods), *parameters] if not calls[name]]
        missed_at_all += missed
        table.add_row(
            face,
            str(len(methods)),
            str(sum(calls[method.full] for method in methods)),
            str(len(parameters)),
            ", ".join(name.removeprefix(face) for name in missed),
        )
        for name in [*(m.full for m in methods), *parameters] if every else ():
            table.add_row("", name, str(calls[name]), "", "")
    console.print(table)
    return missed_at_all
