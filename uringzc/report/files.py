"""Reads what `uringzc bench`, `send` and `recv` print with --json.

What a file says is not trusted: fields have the types that they must have, texts only printable characters.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from uringzc.jobs.bench_report import BenchReport
from uringzc.jobs.job import Job
from uringzc.jobs.receive_job import Received
from uringzc.jobs.result import Result

MOST_BYTES = 256 << 20  #: of a file
MOST_ROUNDS = 10_000  #: of a bench
_MOST_TEXT = 500  # characters of a text in a file
_LARGEST = 1 << 63


class FileError(Exception):
    """What is wrong with a file, as a sentence without its full stop."""


@dataclass(frozen=True)
class SendReport:
    """What `uringzc send --json` prints."""

    job: Job
    result: Result
    uringzc: str = ""
    command: str = ""


@dataclass(frozen=True)
class ReceiveReport:
    """What `uringzc recv --json` prints."""

    received: Received
    failed: tuple[str, ...]
    uringzc: str = ""
    command: str = ""


Report = BenchReport | SendReport | ReceiveReport
KINDS: dict[type[Any], str] = {BenchReport: "bench", SendReport: "send", ReceiveReport: "recv"}


@dataclass(frozen=True)
class File:
    """A result, and what to call it."""

    name: str
    report: Report

    @property
    def kind(self) -> str:
        """ "bench", "send" or "recv"."""
        return KINDS[type(self.report)]


def load(path: str) -> File:
    """Reads a file; "-" is standard input. FileError; OSError if it cannot be read."""
    import msgspec

    name = printable("standard input" if path == "-" else path)
    data = _read(path)
    if len(data) > MOST_BYTES:
        raise FileError(f"{name}: larger than {MOST_BYTES >> 20} MiB, which no result of uringzc is")
    try:
        values = _clean(msgspec.json.decode(data))
        kind = _kind(values)
        report = msgspec.convert(values, kind, str_keys=True)
        for wrong in _wrong(report):
            raise FileError(wrong)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, FileError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else printable(str(error))
        what = "no JSON" if type(error) is msgspec.DecodeError else "no result of uringzc"
        raise FileError(f"{name}: {what}: {why}") from None
    return File(name, report)


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(MOST_BYTES + 1)
    with open(path, "rb") as file:
        return file.read(MOST_BYTES + 1)


def _kind(values: Any) -> type[Any]:
    if isinstance(values, dict):
        if values.get("kind") == "bench":
            return BenchReport
        if "result" in values:
            return SendReport
        if "received" in values:
            return ReceiveReport
    raise FileError("it has not what bench, send or recv print with --json")


def _clean(values: Any) -> Any:
    """The same with printable texts. FileError for numbers that nothing has."""
    if isinstance(values, str):
        return printable(values)
    if isinstance(values, list):
        return [_clean(value) for value in values]
    if isinstance(values, dict):
        return {printable(name): _clean(value) for name, value in values.items()}
    if isinstance(values, int | float) and not abs(values) <= _LARGEST:
        raise FileError("a number in it is too large")
    return values


def printable(text: str) -> str:
    """A text that moves no cursor and has no end of line: what is not printable is replaced."""
    if len(text) <= _MOST_TEXT and text.isprintable():
        return text
    shown = " ".join(text[: _MOST_TEXT + 1].split())
    shown = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown
    )
    return shown if len(text) <= _MOST_TEXT else shown[:_MOST_TEXT] + "\N{HORIZONTAL ELLIPSIS}"


def _wrong(report: Report) -> Iterator[str]:
    """What a type does not say."""
    if isinstance(report, BenchReport):
        rounds = [each for run in report.runs for each in run.rounds]
        if len(rounds) > MOST_ROUNDS:
            yield f"{len(rounds):,} rounds are more than {MOST_ROUNDS:,}"
        if not all(0 < run.size <= 65535 for run in report.runs):
            yield "the size of a datagram is not from 1 to 65,535 bytes"
        counted: list[Result | Received] = [each.result for each in rounds]
        counted += [each.received for each in rounds]
    else:
        counted = [report.result if isinstance(report, SendReport) else report.received]
    if any(each.interval_ns < 1 for each in counted):
        yield "an interval is not longer than 0 ns"
    if any(each.end_ns < each.start_ns for each in counted):
        yield "it ends before it begins"
