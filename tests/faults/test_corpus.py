"""Programs that `make fuzz` has found something with: played again, they find nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from proofs.fuzz.children import Child, build
from proofs.fuzz.programs import Program, Step, generate, loads, shorten

pytestmark = pytest.mark.engines()
CORPUS = sorted((Path(__file__).parents[2] / "proofs" / "fuzz" / "corpus").glob("*.json"))
TIMES = 3  # where an interrupt comes at another moment each time


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child(build(""))
    yield child
    child.end()


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_what_was_found_once_is_not_found_again(file: Path, child: Child) -> None:
    program = loads(file.read_text())
    if program.engine not in child.engines:
        pytest.skip(f"{program.engine} needs a sandbox")
    for _ in range(TIMES if any(step.how == "signal" for step in program.steps) else 1):
        outcome = child.play(program)
        assert not outcome.died
        assert outcome.findings == []


def test_what_is_wrong_is_found(child: Child) -> None:
    """Controls: memory that is overwritten while it is held, and a datagram that is not sent."""
    sock, send = ["socket", "udp", 1], "Scheduler.send"
    early = [
        Step("world.stop"),
        Step(send, give={"sock": sock, "data": ["pool", 1200], "zero_copy": True}),
        Step("Scheduler.submit"),
        Step("world.forget_holds"),  # the program believes that all memory is its own again
        Step("world.write"),
    ]
    if "packet" in child.engines:  # without a sandbox nothing is held
        found = child.play(Program("io_uring", early)).findings
        assert "wrong bytes: memory that was written after it was said to be free" in found[0]


def test_a_seed_gives_the_same_program() -> None:
    made = [generate(seed, ("copy",)) for seed in range(50)]
    assert made == [generate(seed, ("copy",)) for seed in range(50)]
    assert [loads(program.dumps()) for program in made] == made
    assert all(str(program).count("\n") >= len(program.steps) for program in made)


def test_a_program_is_shortened_to_what_fails() -> None:
    program = generate(7, ("copy",))
    program.steps.insert(3, Step("Ring.send", give={"data": ["bytes", 1], "offset": 0}))
    program.steps.insert(9, Step("Ring.close"))

    def fails(some: Program) -> bool:
        names = [step.do for step in some.steps]
        return "Ring.send" in names and "Ring.close" in names[names.index("Ring.send") :]

    shorter = shorten(program, fails)
    assert [step.do for step in shorter.steps] == ["Ring.send", "Ring.close"]
    assert all(not step.give for step in shorter.steps)
