"""What a bench measures: engines and sizes beside each other, or the largest rate without more loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from uringzc.jobs.bench_report import BenchRound, BenchRun, Limit, LimitTry
from uringzc.jobs.json_lines import PeerError
from uringzc.jobs.near_end import NearEnd
from uringzc.jobs.result import Interrupted, Progress

#: takes an engine, bytes of a datagram, the number of the run from 1, and how far that is; None: it begins
Watch = Callable[[str, int, int, Progress | None], object]

_REACHED = 0.95  # of a rate: then it was sent at that rate
_CLOSE = 1.05  # ratio of a rate that did not hold to one that did: closer it is not looked for
_LEAST = 10  # datagrams of a try
_TRIES = 40


@dataclass
class Sweep:
    """Engines and sizes, in rounds: each round has all of them, so that what disturbs hits all."""

    engines: Sequence[str]
    sizes: Sequence[int]
    seconds: float
    rounds: int
    rate: str | None = None
    zero_copy: str = "auto"
    #: what did not hold, as sentences
    failed: list[str] = field(default_factory=list)
    _rounds: dict[tuple[int, str], list[BenchRound]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many runs there will be."""
        return self.rounds * len(self.sizes) * len(self.engines)

    @property
    def runs(self) -> tuple[BenchRun, ...]:
        """What was measured so far, by size, then by engine."""
        return tuple(
            BenchRun(engine, self.zero_copy, size, self.rate, tuple(self._rounds[size, engine]))
            for size in self.sizes
            for engine in self.engines
            if self._rounds.get((size, engine))
        )

    def run(self, end: NearEnd, watch: Watch, done: Callable[[BenchRun], object]) -> None:
        """Measures. `done` is called with each run, of one round. KeyboardInterrupt: what there is, is kept.

        What cannot be sent is in `failed`, and not tried again. If the other end is gone, that is too, and it
        is over.
        """
        cannot: set[tuple[int, str]] = set()
        number = 0
        for _ in range(self.rounds):
            for size in self.sizes:
                for engine in self.engines:
                    number += 1
                    if (size, engine) in cannot:
                        continue
                    watch(engine, size, number, None)
                    try:
                        self._one(end, engine, size, number, watch, done)
                    except Interrupted as stop:
                        self._keep(engine, size, stop.result)
                        raise
                    except PeerError as error:
                        self._fail(f"{engine}, {size} bytes: {error}")
                        return
                    except (OSError, ValueError) as error:
                        cannot.add((size, engine))
                        why = getattr(error, "strerror", None) or error
                        self._fail(f"{engine}, {size} bytes: {why}")

    def _one(
        self,
        end: NearEnd,
        engine: str,
        size: int,
        number: int,
        watch: Watch,
        done: Callable[[BenchRun], object],
    ) -> None:
        each = end.measure(
            engine,
            size,
            self.seconds,
            self.rate,
            self.zero_copy,
            lambda progress: watch(engine, size, number, progress),
        )
        self._keep(engine, size, each)
        if each.result.datagrams and not each.came:
            self._fail(
                f"{engine}, {size} bytes: nothing came at {each.received.bind}; "
                "does a firewall let UDP through to there?"
            )
        done(BenchRun(engine, self.zero_copy, size, self.rate, (each,)))

    def _keep(self, engine: str, size: int, each: BenchRound) -> None:
        self._rounds.setdefault((size, engine), []).append(each)
        for sentence in each.result.failed:
            self._fail(f"{engine}, {size} bytes: {sentence}")

    def _fail(self, sentence: str) -> None:
        if sentence not in self.failed:
            self.failed.append(sentence)


class LimitSearch:
    """The largest rate at which no more than a share `loss` of the datagrams is lost, by bisection.

    First it is sent as fast as it goes. Then rates are tried below the lowest that did not hold; one holds if
    it does so twice. It ends when the highest that held and the lowest that did not are 5% apart.
    """

    def __init__(
        self, end: NearEnd, engine: str, size: int, seconds: float, loss: float, zero_copy: str = "auto"
    ) -> None:
        self._end, self._engine, self._size, self._seconds = end, engine, size, seconds
        self._loss, self._zero_copy = loss, zero_copy
        self._watch: Watch = lambda *_: None
        self._done: Callable[[LimitTry], object] = lambda _: None
        self.tries: list[LimitTry] = []
        self._best, self._bound = 0.0, ""

    @property
    def limit(self) -> Limit:
        """What was found, so far."""
        return Limit(self._loss, self._engine, self._size, self._best, self._bound, tuple(self.tries))

    def run(self, watch: Watch, done: Callable[[LimitTry], object]) -> None:
        """Looks for it. `done` is called with each try. Raises what NearEnd.measure does."""
        self._watch, self._done = watch, done
        fastest, came = self._try(None)
        if fastest.held and self._try(None)[0].held:
            self._best, self._bound = min(one.sent_pps for one in self.tries), "sender"
            return
        if not came:
            self._bound = "loss"
            return
        over, self._bound = fastest.sent_pps, self._why(fastest)
        rate = min(0.95 * came / self._seconds, over / _CLOSE)  # what came may hold
        while len(self.tries) < _TRIES and rate * self._seconds >= _LEAST:
            found = self._try_twice(rate)
            if found.held:
                self._best = rate
            else:
                over, self._bound = rate, self._why(found)
            if self._best and over / self._best <= _CLOSE:
                return
            rate = (self._best + over) / 2

    def _try_twice(self, pps: float) -> LimitTry:
        """Until it has held twice, or does not hold. That it was not reached, for once, says nothing."""
        held = missed = 0
        while True:
            found, _ = self._try(pps)
            slow = not found.held and self._why(found) == "sender"
            held, missed = held + found.held, missed + slow
            if held == 2 or missed == 2 or not (found.held or slow):
                return found

    def _try(self, pps: float | None) -> tuple[LimitTry, int]:
        """And the datagrams that came. `pps` None: as fast as it goes."""
        engine, size, number = self._engine, self._size, len(self.tries) + 1
        self._watch(engine, size, number, None)
        rate = None if pps is None else f"{pps:.3f}pps"

        def watch(progress: Progress) -> None:
            self._watch(engine, size, number, progress)

        try:
            each = self._end.measure(engine, size, self._seconds, rate, self._zero_copy, watch)
        except Interrupted:
            raise KeyboardInterrupt from None  # that try says nothing
        sent = each.result.pps
        asked = sent if pps is None else pps
        held = each.came > 0 and each.lost_share <= self._loss and sent >= _REACHED * asked
        found = LimitTry(asked, sent, each.lost_share, each.received.dropped, held)
        self.tries.append(found)
        self._done(found)
        return found, each.came

    def _why(self, found: LimitTry) -> str:
        """Why a try did not hold."""
        if found.lost_share <= self._loss:
            return "sender"
        return "receiver" if found.dropped else "loss"
