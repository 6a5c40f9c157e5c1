"""Programs: lists of steps, made from a seed; they can be printed, saved, read again and made shorter.

A step names a method and its arguments, and which of the program's objects it is called on: by a number,
modulo how many there are, so that a program stays one whatever is removed from it. Where there is none, one
is made.
"""

import json
import random
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

from proofs.fuzz import faces, values
from proofs.fuzz.values import Value

ENGINES = ("io_uring", "msg_zerocopy", "copy", "packet", "af_xdp")
#: without a sandbox
LOOPBACK_ENGINES = ENGINES[:3]


@dataclass
class Step:
    """One call. `do`: "Face.method", "Face()", or "world.what"; `how`: see ``ways``, or "task"."""

    do: str
    on: int = 0
    give: dict[str, Value] = field(default_factory=dict)
    how: str = ""

    def __str__(self) -> str:
        given = ", ".join(f"{name}={_shown(value)}" for name, value in self.give.items())
        face, _, method = self.do.rpartition(".")
        call = f"{self.do[:-1]}{given})" if self.do.endswith(")") else f"{face} {self.on}.{method}({given})"
        return f"{call}   # {self.how}" if self.how else call


@dataclass
class Program:
    """Steps, and on which engine. `seed`: what they were made from, for those who read it."""

    engine: str
    steps: list[Step]
    seed: int = 0
    only: str = ""

    def __str__(self) -> str:
        head = f"# engine {self.engine}, seed {self.seed}{f', --only {self.only}' if self.only else ''}"
        return "\n".join([head, *map(str, self.steps)])

    def dumps(self) -> str:
        """As a line of JSON."""
        return json.dumps(asdict(self))


def loads(text: str) -> Program:
    """What ``dumps`` wrote."""
    read = json.loads(text)
    return Program(read["engine"], [Step(**step) for step in read["steps"]], read["seed"], read["only"])


def _shown(value: Value) -> str:
    if not isinstance(value, list):
        return repr(value)
    if not value or not isinstance(value[0], str):
        return f"[{', '.join(map(_shown, value))}]"
    return f"<{' '.join([value[0], *map(_shown, value[1:])])}>"


#: how often a method is called, where not once
_WEIGHTS = {
    "Scheduler.send": 14,
    "Scheduler.send_run": 5,
    "Scheduler.flush": 6,
    "Scheduler.submit": 4,
    "Scheduler.reap_completions": 5,
    "Scheduler.reap_notifications": 5,
    "Scheduler.drain": 3,
    "Scheduler()": 2,
    "Notifier.done": 4,
    "Notifier.wait": 2,
    "Ring.send": 4,
    "Ring.send_zc": 12,
    "Ring.sendmsg_zc": 4,
    "Ring.submit": 6,
    "Ring.reap": 6,
    "UdpSender()": 4,
    "UdpSender.send": 14,
    "UdpSender.send_many": 6,
    "UdpSender.fan_out": 4,
    "UdpSender.lease": 4,
    "UdpSender.send_region": 6,
    "UdpSender.send_slices": 4,
    "UdpSender.flush": 5,
    "UdpSender.drain": 3,
    "UdpSender.group": 3,
    "Lease.send": 6,
    "Group.send": 8,
    "Group.send_many": 4,
    "Group.add": 5,
    "TcpSender()": 3,
    "TcpSender.send": 16,
    "TcpSender.send_buffers": 6,
    "aio.UdpSender.send": 8,
    "aio.TcpSender.send": 8,
    "aio.DatagramTransport.sendto": 12,
    "aio.EventLoop.create_datagram_endpoint": 6,
    "aio.UdpSender()": 3,
    "aio.TcpSender()": 2,
}
_RARE = {"stats", "closed", "engine", "sock", "view", "dtype", "registered", "explain", "fileno", "slots"}
_HOW = ("thread", "beside", "signal", "signal", "fork", "task", "task")
#: what happens to objects and the network between calls
_WORLD = {
    "world.write": 10,
    "world.stop": 5,
    "world.release": 3,
    "world.wait": 3,
    "world.collect": 3,
    "world.drop": 4,
    "world.resize": 2,
    "world.close_socket": 2,
    "world.steal_descriptor": 1,
    "world.turn": 4,
    "world.cancel": 2,
    "world.stop_reading": 1,
    "world.reset": 0.5,
    "world.threshold": 0.5,
}


def generate(seed: int, engines: Sequence[str], only: str = "") -> Program:
    """The program of a seed: the same for the same engines, `only`, and public methods."""
    rnd = random.Random(f"{seed} {only}")
    engine = rnd.choice(list(engines))
    wrongness = rnd.choice([0.0, 0.0, 0.02, 0.15])
    hostility = rnd.choice([0.0, 0.0, 0.05, 0.2])  # of how, not with what, calls are made
    chosen = [only] if only else rnd.sample(list(faces.GROUPS), rnd.choice([1, 1, 1, 2, 3]))
    names = {face for group in chosen for face in faces.GROUPS[group]}
    choices = {m.full: _weight(m) for m in faces.methods().values() if m.face in names} | _WORLD
    picked = rnd.choices(list(choices), list(choices.values()), k=rnd.choice([4, 10, 25, 25, 50]))
    return Program(engine, [_step(rnd, name, wrongness, hostility) for name in picked], seed, only)


def making(face: str) -> list[Step]:
    """What makes one of a kind, where a step needs one and there is none."""
    place = ["list", [["place", 0], ["place", 1]]]
    make: dict[str, list[Step]] = {
        "Ring": [Step("Ring()")],
        "Scheduler": [Step("Scheduler()", give={"tags": ["list", [1, 2, 3]]})],
        "Notifier": [
            Step("Scheduler.send", give={"sock": ["socket", "udp", 0], "data": ["pool", 1200]}),
            Step("Scheduler.flush", give={"slot": 0}),
        ],
        "Region": [Step("Scheduler.register", give={"size_or_buffer": 65536})],
        "Batch": [Step("Scheduler.reap_completions")],
        "UdpSender": [Step("UdpSender()", give={"remote": ["place", 0]})],
        "Lease": [Step("UdpSender.lease", give={"size": 1200})],
        "Group": [Step("UdpSender.group", give={"addresses": place})],
        "TcpSender": [Step("TcpSender()", give={"sock": ["socket", "tcp", 0]})],
        "aio.UdpSender": [Step("aio.UdpSender()", give={"remote": ["place", 2]})],
        "aio.TcpSender": [Step("aio.TcpSender()", give={"sock": ["socket", "tcp", 1]})],
        "aio.Group": [Step("aio.UdpSender.group", give={"addresses": place})],
        "aio.Lease": [Step("aio.UdpSender.lease", give={"size": 1200})],
        "aio.DatagramTransport": [
            Step(
                "aio.EventLoop.create_datagram_endpoint",
                give={"protocol_factory": ["protocol", ""], "remote_addr": ["place", 3]},
            )
        ],
    }
    return make.get(face, [])


def _weight(method: faces.Method) -> float:
    if method.name in _RARE or method.name.startswith("__"):
        return 0.3
    if method.name in ("close", "abort", "release", "unregister", "shutdown"):
        return 0.7
    return _WEIGHTS.get(method.full, 1)


def _step(rnd: random.Random, name: str, wrongness: float, hostility: float) -> Step:
    on = rnd.choice([0, 0, 0, 1, 2])
    if name.startswith("world."):
        return Step(name, on, {"kind": rnd.choice(list(faces.CLASSES))} if name == "world.drop" else {})
    method = faces.methods()[name]
    seldom = 0.12 if method.name == "(" else 0.3
    give = {
        parameter: values.draw(rnd, method.face, method.name, parameter, wrongness)
        for parameter, required in method.parameters.items()
        if required or rnd.random() < _often(parameter, seldom)
    }
    if rnd.random() < wrongness / 8 and give and method.name != "(":
        give.pop(rnd.choice(list(give)))
    match give:
        case {"sock": ["socket", "tcp", _], "msg_flags": int(flags)}:
            give["msg_flags"] = flags | rnd.choice([0, int(socket.MSG_MORE)])  # as JSON has it
    how = rnd.choice(_HOW) if rnd.random() < hostility else ""
    if not how and name.startswith("aio.") and rnd.random() < 0.2:
        how = "task"
    return Step(name, on, give, how)


def _often(parameter: str, seldom: float) -> float:
    return {"remote": 0.8, "to": 0.5, "scheduler": 0.3, "sock": 0.3, "sndbuf": 0.05, "device": 0.05}.get(
        parameter, seldom
    )


def shorten(program: Program, fails: Callable[[Program], bool]) -> Program:
    """With as few steps and arguments as still fail: ddmin over steps, then arguments one by one."""
    steps = _fewer(program.steps, lambda some: fails(_with(program, some)))
    for index, step in enumerate(steps):
        for name in list(step.give):
            less = Step(step.do, step.on, {n: v for n, v in step.give.items() if n != name}, step.how)
            if fails(_with(program, [*steps[:index], less, *steps[index + 1 :]])):
                steps[index] = step = less
    return _with(program, steps)


def _fewer(steps: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    size = max(1, len(steps) // 2)
    while True:
        at = 0
        while at < len(steps):
            some = steps[:at] + steps[at + size :]
            if some and fails(some):
                steps = some
            else:
                at += size
        if size == 1:
            return steps
        size //= 2


def _with(program: Program, steps: Iterable[Step]) -> Program:
    return Program(program.engine, list(steps), program.seed, program.only)


def methods_of(program: Program) -> set[str]:
    """What it calls."""
    return {step.do for step in program.steps}
