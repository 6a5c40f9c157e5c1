"""What a job did, as plain data; several of them added up over the time in which all ran."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

SECOND = 1_000_000_000


class Count(NamedTuple):
    """What was counted from `number` * interval to the next, of CLOCK_REALTIME."""

    number: int
    datagrams: int
    nbytes: int


class Progress(NamedTuple):
    """How far a job is."""

    seconds: float  #: since it began
    datagrams: int
    nbytes: int
    total: int | None  #: datagrams when it is done; None: not known
    lost: int = 0  #: of a receiver: datagrams that are missing so far


class Interrupted(KeyboardInterrupt):
    """Ctrl-C has ended a job; `result` is what it did until then."""

    def __init__(self, result: Any) -> None:
        super().__init__("interrupted")
        self.result = result


class Intervals:
    """Counts datagrams by the interval of the clock in which they left or came."""

    def __init__(self, seconds: float) -> None:
        self.ns = round(seconds * SECOND)
        self._counts: dict[int, list[int]] = {}
        self.datagrams = self.nbytes = 0

    def add(self, now: int, datagrams: int, nbytes: int) -> None:
        """`now`: ns of CLOCK_REALTIME."""
        count = self._counts.setdefault(now // self.ns, [0, 0])
        count[0] += datagrams
        count[1] += nbytes
        self.datagrams += datagrams
        self.nbytes += nbytes

    def counts(self) -> tuple[Count, ...]:
        """Of the intervals in which there were any."""
        return tuple(Count(number, *self._counts[number]) for number in sorted(self._counts))


@dataclass(frozen=True)
class Result:
    """What a job did, or several: see total. Times are ns of CLOCK_REALTIME."""

    start_ns: int  #: of several: when the last of them began
    end_ns: int  #: of several: when the first of them ended
    pps: float  #: datagrams per second, between start and end
    bits_per_second: float  #: of payload, between start and end
    datagrams: int  #: all of them
    nbytes: int  #: of payload
    interval_ns: int
    counts: tuple[Count, ...]  #: by interval; those with nothing are left out
    lost: int  #: datagrams that could not be sent
    errors: dict[str, int]  #: what the kernel or the network reported: how often
    cpu_ns: int  #: CPU time of the sending thread, in the kernel too
    trains: dict[int, int]  #: trains (GSO batches) by length, as ``UdpStats.trains``
    mean_train: float  #: datagrams
    requests: int  #: to the engine
    syscalls: int  #: system calls that sent
    zero_copy: int  #: requests sent zero-copy
    copied: int  #: of those, copied by the kernel after all
    engine: str
    explain: str  #: ``UdpSender.explain()`` at the end
    stream: int  #: of its datagrams; of several: of the first
    stopped: str  #: by what: "end" of the file, "count", "nbytes", "duration", "interrupt" or "error"
    failed: tuple[str, ...]  #: what was asked for and did not hold, as sentences
    jobs: int = 1

    @property
    def seconds(self) -> float:
        """Between start and end."""
        return (self.end_ns - self.start_ns) / SECOND

    @property
    def cpu_ns_per_datagram(self) -> float:
        """CPU time of the sender."""
        return self.cpu_ns / self.datagrams if self.datagrams else 0.0

    @property
    def copied_share(self) -> float | None:
        """Of the requests sent zero-copy, those that the kernel copied; None if there were none."""
        return self.copied / self.zero_copy if self.zero_copy else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with what follows from it; `from_dict` makes it again."""
        names = ("seconds", "cpu_ns_per_datagram", "copied_share")
        plain = asdict(self) | {"counts": [list(count) for count in self.counts]}
        return plain | {"failed": list(self.failed)} | {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Result":
        """What as_dict() gave, perhaps by way of JSON."""
        own = {each.name: values[each.name] for each in fields(cls)}
        own["counts"] = tuple(Count(*count) for count in own["counts"])
        own["trains"] = {int(length): count for length, count in own["trains"].items()}
        own["failed"] = tuple(own["failed"])
        return cls(**own)


class Window(NamedTuple):
    """Whole intervals that several results have in common."""

    start_ns: int
    end_ns: int
    counts: tuple[Count, ...]  #: the sums

    @property
    def per_second(self) -> tuple[float, float]:
        """Datagrams and bits."""
        seconds = (self.end_ns - self.start_ns) / SECOND
        datagrams = sum(count.datagrams for count in self.counts)
        return datagrams / seconds, 8 * sum(count.nbytes for count in self.counts) / seconds


def common_window(results: Sequence[Any]) -> Window:
    """Of results with start_ns, end_ns, interval_ns and counts. ValueError if they have none in common."""
    sizes = {result.interval_ns for result in results}
    if len(sizes) != 1:
        raise ValueError(f"the results are counted in different intervals: {sorted(sizes)} ns")
    size = sizes.pop()
    start = max(result.start_ns for result in results)
    end = min(result.end_ns for result in results)
    first, behind = -(-start // size), end // size
    if behind <= first:
        raise ValueError(
            f"the jobs have no whole interval of {size / SECOND:g} s in common: the last began at "
            f"{start / SECOND:.3f}, the first ended at {end / SECOND:.3f}"
        )
    datagrams, nbytes = Counter[int](), Counter[int]()
    for result in results:
        for count in result.counts:
            if first <= count.number < behind:
                datagrams[count.number] += count.datagrams
                nbytes[count.number] += count.nbytes
    counts = tuple(Count(number, datagrams[number], nbytes[number]) for number in sorted(datagrams))
    return Window(first * size, behind * size, counts)


def total(results: Iterable[Result]) -> Result:
    """Several results as one: rates and counts by interval over the time in which all of them ran.

    The time is of whole intervals. `datagrams`, `nbytes`, `lost`, `cpu_ns` and the other numbers are sums of
    everything that the jobs did, inside that time or not. ValueError for none, or without a common interval.
    """
    parts = list(results)
    if not parts:
        raise ValueError("there are no results to add up")
    if len(parts) == 1:
        return parts[0]
    window = common_window(parts)
    pps, bits = window.per_second
    summed = ("datagrams", "nbytes", "lost", "cpu_ns", "requests", "syscalls", "zero_copy", "copied", "jobs")
    sums: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in summed}
    trains, errors = Counter[int](), Counter[str]()
    for part in parts:
        trains.update(part.trains)
        errors.update(part.errors)
    taken = sum(trains.values())
    in_trains = sum(part.mean_train * sum(part.trains.values()) for part in parts)
    return Result(
        **sums,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        pps=pps,
        bits_per_second=bits,
        interval_ns=parts[0].interval_ns,
        counts=window.counts,
        errors=dict(errors),
        trains=dict(trains),
        mean_train=in_trains / taken if taken else 0.0,
        engine=_either(part.engine for part in parts),
        explain=_either(part.explain for part in parts),
        stream=parts[0].stream,
        stopped=_either(part.stopped for part in parts),
        failed=tuple(sentence for part in parts for sentence in part.failed),
    )


def _either(values: Iterable[str]) -> str:
    """What all say, or each of them once."""
    return ", ".join(dict.fromkeys(values))
