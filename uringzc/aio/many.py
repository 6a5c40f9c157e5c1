"""send_many() of an awaitable sender or group: an iterable is read once, whatever has to wait in between."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from uringzc.address import Address
from uringzc.aio.waiting import Waiting

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

CHUNK = 4096  # datagrams in one call of the plain sender


async def send_all(
    waiting: Waiting,
    send_many: Callable[..., int],
    datagrams: "Iterable[Buffer]",
    to: "Address | Iterable[Address] | None" = None,
) -> int:
    """See UdpSender.send_many. `send_many`: of the plain sender, or of a group, which has no `to`."""
    items, sent = iter(datagrams), 0
    addresses = None if to is None or _is_one(to) else iter(to)
    chunk: list[Any] = []
    paired: list[Any] = []

    def take(done: int) -> int:
        rest = chunk[done:] if done else chunk
        if addresses is not None:
            return send_many(rest, paired[done:])
        return send_many(rest) if to is None else send_many(rest, to)

    async with waiting.turn():
        while True:
            chunk, failure = _take(items, CHUNK)
            ends = len(chunk) < CHUNK
            if addresses is not None:
                paired, missing = _take(addresses, len(chunk))
                if len(paired) < len(chunk):
                    del chunk[len(paired) :]
                    text = f"there are more datagrams than the {sent + len(paired)} addresses"
                    failure = missing or ValueError(text)

            try:
                sent += await waiting.take_all(len(chunk), take)
            except BlockingIOError as error:
                error.characters_written += sent
                raise
            if failure is not None:
                raise failure
            if ends:
                return sent
            await waiting.loop.pause()


def _is_one(to: Any) -> bool:
    """("host", port), and not an iterable of such."""
    return isinstance(to, str) or (isinstance(to, (tuple, list)) and bool(to) and isinstance(to[0], str))


def _take(items: Iterator[T], count: int) -> tuple[list[T], Exception | None]:
    """The next ones, and what the iterator raised behind them."""
    taken: list[T] = []
    try:
        taken.extend(islice(items, count))
    except Exception as error:
        return taken, error
    return taken, None
