"""A child: plays the programs that its parent writes to it, one a line, and answers with what it found.

If it dies, the parent knows in which. A program that takes too long ends it, with the stacks of its threads.
"""

import ctypes
import faulthandler
import gc
import json
import os
import signal
import sys
from pathlib import Path

from proofs.fuzz.network import Network
from proofs.fuzz.player import Player
from proofs.fuzz.programs import ENGINES, LOOPBACK_ENGINES, Program, Step, loads

DEADLINE = 60.0  #: seconds of a program
_PR_SET_PDEATHSIG = 1
_NUMBERS = 100_000  # of different contents, for one program


def main() -> None:
    """Answers until there is no more."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed is no answer
    faulthandler.enable()
    network = Network()
    engines = ENGINES if network.box else LOOPBACK_ENGINES
    for engine in engines:  # what is made once for a process is made now
        Player(network, _warm_up(engine), 0).play()
    gc.collect()
    gc.freeze()
    print(json.dumps(engines), file=answers, flush=True)
    first = _NUMBERS
    for line in sys.stdin:
        program = loads(line)
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        player = Player(network, program, first)
        findings = player.play()
        first += _NUMBERS
        gc.set_threshold(700)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"findings": findings, "calls": player.calls}), file=answers, flush=True)
        del player


def _warm_up(engine: str) -> Program:
    steps = [
        Step("Scheduler.send", give={"sock": ["socket", "udp", 0], "data": ["bytes", 100]}),
        Step("UdpSender()", give={"remote": ["place", 0], "max_delay": 0.001}),
        Step("UdpSender.send", give={"data": ["bytes", 100]}),
        Step("TcpSender.send", give={"data": ["bytes", 20000]}),
        Step("Ring.send", give={"sock": ["socket", "udp", 0], "data": ["bytes", 100]}),
        Step("aio.UdpSender.send", give={"data": ["bytes", 100]}),
        Step("aio.DatagramTransport.sendto", give={"data": ["bytes", 100]}),
    ]
    return Program(engine, steps)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
