"""Which engine a Scheduler or a sender gets."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from uringzc.engines.base import Engine
from uringzc.engines.contract import FrameOptions
from uringzc.engines.io_uring import RingEngine
from uringzc.engines.msg_zerocopy import CopyEngine, MsgZerocopyEngine
from uringzc.kernel.reasons import Reason, reason_of

if TYPE_CHECKING:
    from uringzc.engines.af_xdp import AfXdpEngine
    from uringzc.engines.packet import PacketEngine

#: best first
ENGINES = ("io_uring", "msg_zerocopy", "copy")
#: go around the kernel's sockets, and are chosen by name only
FRAME_ENGINES = ("packet", "af_xdp")


def choose(
    engine: str,
    max_inflight: int,
    completions: int,
    debug: bool | None,
    batch: int | None = None,
    frames: FrameOptions | None = None,
) -> Engine:
    """The engine of that name; "auto" is the best that works here. OSError says why one cannot, and the fix.

    URINGZC_ENGINE in the environment replaces "auto". Its ``passed_over`` says which better engines "auto"
    could not choose, and why. `debug` None: only with `python -X dev` or URINGZC_DEBUG=1. `batch`: requests
    of one submission; None: the engine's default. `frames`: of those that send frames.
    """
    if debug is None:
        debug = sys.flags.dev_mode or os.environ.get("URINGZC_DEBUG", "0") not in ("", "0")
    asked, engine = engine, auto() if engine == "auto" else engine
    make: dict[str, Callable[[], Engine]] = {
        "io_uring": lambda: RingEngine(max_inflight, completions, batch, debug=debug),
        "msg_zerocopy": lambda: MsgZerocopyEngine(max_inflight, completions, debug),
        "copy": lambda: CopyEngine(max_inflight, completions, debug),
        "packet": lambda: _packet()(max_inflight, completions, batch, debug, options),
        "af_xdp": lambda: _af_xdp()(max_inflight, completions, batch, debug, options),
    }
    options = frames or FrameOptions()
    if options.qdisc_bypass and engine != "packet":
        raise ValueError(f"qdisc_bypass is for engine='packet', not {engine!r}")
    if engine in (*ENGINES, *FRAME_ENGINES):
        return make[engine]()
    if engine != "auto":
        what = "URINGZC_ENGINE in the environment" if asked == "auto" else "engine"
        raise ValueError(f"{what} is 'auto' or one of {', '.join(map(repr, make))}, not {engine!r}")
    passed_over: dict[str, Reason] = {}
    for name in ENGINES:
        try:
            chosen = make[name]()
            break
        except OSError as error:
            if name == ENGINES[-1]:
                raise
            passed_over[name] = reason_of(error)
    chosen.passed_over = passed_over
    return chosen


def _packet() -> "type[PacketEngine]":
    """Imported when it is chosen, as af_xdp: they need the extra "packet"."""
    from uringzc.engines.packet import PacketEngine

    return PacketEngine


def _af_xdp() -> "type[AfXdpEngine]":
    from uringzc.engines.af_xdp import AfXdpEngine

    return AfXdpEngine


def auto() -> str:
    """What "auto" stands for: URINGZC_ENGINE, if that is set."""
    return os.environ.get("URINGZC_ENGINE") or "auto"
