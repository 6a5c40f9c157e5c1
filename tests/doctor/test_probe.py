"""probe(), forced engines and "auto" where the kernel refuses something: in child processes."""

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from processes import child, run_program
from refusals import NOBODY

import uringzc
from uringzc import testing
from uringzc.doctor import capabilities
from uringzc.kernel.features import SO_ZEROCOPY, Features
from uringzc.kernel.proc import capable, status
from uringzc.kernel.proc import sysctl as sysctl_now
from uringzc.kernel.reasons import Reason, no_ring, reason_of
from uringzc.senders.sockets import make_room

pytestmark = [pytest.mark.engines(), testing.requires("send_zc")]

#: reasons of the machine and its kernel, which are there whatever is refused here
ALWAYS = {"wmem_max", "report_usage", "sendmsg_zc", "fixed_message"}

Sysctl = Callable[[str, int], None]
Report = dict[str, Any]


def reported(*doing: str, box: testing.Sandbox | None = None, part: str = "") -> Report:
    """What a child says that has done this to itself. It really sends, whatever it was refused."""
    out, _ = run_program(
        "\n".join(["import errno", "from refusals import *", *doing, f"report({part})"]), box=box
    )
    found: Report = json.loads(out)
    assert part or found["probe"]["engine"] == found["sender"][0]
    return found


def names(found: Report) -> list[str]:
    return [reason["name"] for reason in found["probe"]["details"]]


def reason_in(found: Report, name: str) -> str:
    """The reason of that name: probe() and its text for people have it, in one piece."""
    (reason,) = (each for each in found["probe"]["details"] if each["name"] == name)
    assert reason["text"] in found["probe"]["reasons"]
    at = found["probe"]["reasons"].index(reason["text"])
    assert found["probe"]["fixes"][at] == reason["fix"]
    whole = f"{reason['text']}; {reason['fix']}"
    assert whole in found["probe"]["str"]
    return whole


@pytest.fixture
def sysctl(request: pytest.FixtureRequest) -> Iterator[Sysctl]:
    """Sets one of the machine's; as it was before, after the test."""
    assert request.node.get_closest_marker("alone")
    if not os.environ.get("URINGZC_TEST_SYSCTL"):
        pytest.skip("switches io_uring off for the whole machine, or limits it: set URINGZC_TEST_SYSCTL=1")
    with ExitStack() as stack:

        def put(name: str, value: int) -> None:
            stack.enter_context(_set(name, value))

        yield put


@contextmanager
def _set(name: str, value: int) -> Iterator[None]:
    file = Path("/proc/sys") / name.replace(".", "/")
    try:
        before = file.read_text()
        file.write_text(str(value))
    except OSError as error:
        pytest.skip(f"needs to set {name}: {error.strerror}")
    try:
        yield
    finally:
        file.write_text(before)


# -- the control


def test_where_nothing_is_refused_io_uring_is_picked() -> None:
    found = reported()
    assert found["sender"][0] == found["scheduler"] == "io_uring"
    assert found["errors"] == dict.fromkeys(("io_uring", "msg_zerocopy", "copy"))
    assert {name: found["probe"]["engines"][name] for name in found["errors"]} == found["errors"]
    assert "seccomp" not in found["probe"]["str"]
    assert not {*names(found)} - ALWAYS - {"memlock"}
    assert "Not better" not in found["sender"][1]


def test_a_seccomp_filter_of_another_call_changes_nothing() -> None:
    found = reported("forbid(999, errno.EPERM)")
    assert found["sender"][0] == "io_uring"
    assert found["errors"]["io_uring"] is None


# -- no ring


@pytest.mark.parametrize(
    ("code", "name", "says"),
    [
        (errno.EPERM, "seccomp_eperm", "a seccomp filter forbids it, as container profiles do (EPERM)"),
        (errno.ENOSYS, "seccomp_enosys", "a seccomp filter hides it"),
    ],
)
def test_a_seccomp_filter_refuses_rings(code: int, name: str, says: str) -> None:
    found = reported(f"forbid_rings({code})")
    assert found["sender"][0] == found["scheduler"] == "msg_zerocopy"
    number, text = found["errors"]["io_uring"]
    assert number == code
    assert says in text
    assert "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile" in text
    assert names(found)[0] == name
    assert reason_in(found, name) == text
    assert found["probe"]["engines"]["io_uring"]["name"] == name
    assert found["probe"]["features"] is None
    assert found["errors"]["msg_zerocopy"] is None
    assert f"Not better, because {text.partition(';')[0]}" in found["sender"][1]


def test_a_seccomp_filter_refuses_to_enter_rings() -> None:
    """They can be made then, and nothing can be sent with them."""
    found = reported("forbid(IO_URING_ENTER, errno.EPERM)")
    assert found["sender"][0] == found["scheduler"] == "msg_zerocopy"
    number, text = found["errors"]["io_uring"]
    assert number == errno.EPERM
    assert "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile" in text
    assert names(found)[0] == "seccomp_eperm"


#: imports, becomes who it is to be, and waits, so that the machine is without rings only for a moment
WAITING = "from refusals import *\n{}\nprint('ready', flush=True)\ninput()\nreport()"


def reported_under(sysctl: Sysctl, settings: dict[str, int], doing: str = "") -> Report:
    with child(WAITING.format(doing)) as waiting:
        assert waiting.line() == "ready"
        for name, value in settings.items():
            sysctl(name, value)
        waiting.write_line()
        found: Report = json.loads(waiting.line())
        waiting.end()
    return found


@pytest.mark.alone
def test_the_sysctl_disables_io_uring(sysctl: Sysctl) -> None:
    found = reported_under(sysctl, {"kernel.io_uring_disabled": 2})
    assert found["sender"][0] == "msg_zerocopy"
    assert found["errors"]["io_uring"] == [
        errno.EPERM,
        "io_uring is switched off: kernel.io_uring_disabled is 2; sysctl kernel.io_uring_disabled=0",
    ]
    assert reason_in(found, "io_uring_disabled") == found["errors"]["io_uring"][1]


@testing.requires("unprivileged")
@pytest.mark.alone
def test_the_sysctl_restricts_io_uring_to_the_privileged(sysctl: Sysctl) -> None:
    found = reported_under(sysctl, {"kernel.io_uring_disabled": 1}, "become_nobody()")
    assert found["sender"][0] == "msg_zerocopy"
    code, text = found["errors"]["io_uring"]
    assert code == errno.EPERM
    assert "kernel.io_uring_disabled is 1, and this one has no CAP_SYS_ADMIN and is not in the group" in text
    assert reason_in(found, "io_uring_group") == text


@testing.requires("unprivileged")
@pytest.mark.alone
def test_the_sysctls_group_may_use_io_uring(sysctl: Sysctl) -> None:
    settings = {"kernel.io_uring_disabled": 1, "kernel.io_uring_group": NOBODY}
    assert reported_under(sysctl, settings, "become_nobody()")["sender"][0] == "io_uring"


@pytest.mark.alone
def test_a_seccomp_filter_is_not_mistaken_for_the_sysctl(sysctl: Sysctl) -> None:
    if not capable(21):
        pytest.skip("needs CAP_SYS_ADMIN: run as root")
    settings = {"kernel.io_uring_disabled": 1}
    assert reported_under(sysctl, settings)["sender"][0] == "io_uring"
    assert names(reported_under(sysctl, settings, "forbid_rings()"))[0] == "seccomp_eperm"


@pytest.mark.alone
def test_the_sysctl_is_reported_after_io_uring_was_probed(sysctl: Sysctl) -> None:
    program = """
        from refusals import *
        assert refused("io_uring") is None  # what it offers is known from now on
        print("ready", flush=True)
        input()
        print(json.dumps(refused("io_uring")), flush=True)
    """
    with child(program) as waiting:
        assert waiting.line() == "ready"
        sysctl("kernel.io_uring_disabled", 2)
        waiting.write_line()
        code, text = json.loads(waiting.line())
        waiting.end()
    assert code == errno.EPERM
    assert "kernel.io_uring_disabled is 2; sysctl" in text


def test_a_kernel_without_send_zc_falls_back_to_msg_zerocopy() -> None:
    """REGISTER_PROBE is refused: no opcode is known to be there."""
    found = reported("forbid(IO_URING_REGISTER, errno.EINVAL, 1, IORING_REGISTER_PROBE)")
    assert found["sender"][0] == "msg_zerocopy"
    code, text = found["errors"]["io_uring"]
    assert code == errno.EOPNOTSUPP
    assert (
        text == "io_uring cannot send zero-copy: this kernel has no IORING_OP_SEND_ZC; run Linux 6.0 or later"
    )
    assert reason_in(found, "send_zc") == text
    assert found["probe"]["features"] is None


# -- no MSG_ZEROCOPY


def test_a_kernel_without_so_zerocopy_falls_back_to_copy() -> None:
    found = reported("forbid_zerocopy()", "forbid_rings()")
    assert found["sender"][0] == found["scheduler"] == "copy"
    assert names(found)[:2] == ["seccomp_eperm", "so_zerocopy"]
    code, text = found["errors"]["msg_zerocopy"]
    assert code == errno.ENOPROTOOPT
    assert "sockets have no SO_ZEROCOPY here" in text
    assert reason_in(found, "so_zerocopy") == text
    assert found["errors"]["copy"] is None
    assert "Each request is copied: this engine does nothing else" in found["sender"][1]


def test_io_uring_needs_no_so_zerocopy() -> None:
    found = reported("forbid_zerocopy()")
    assert found["sender"][0] == "io_uring"
    assert "so_zerocopy" not in names(found)
    assert found["probe"]["engines"]["msg_zerocopy"]["name"] == "so_zerocopy"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (errno.ENOSYS, "enosys"),
        (errno.EPERM, "forbidden"),
        (errno.EACCES, "forbidden"),
        (errno.EMFILE, "io_uring"),
    ],
)
def test_an_errno_without_filter_or_sysctl_has_its_own_reason(code: int, name: str) -> None:
    """The tests above are the controls: the same errno, and a filter or a sysctl that is found."""
    if status("Seccomp") != "0" or sysctl_now("kernel.io_uring_disabled"):
        pytest.skip("needs a process without a seccomp filter, and kernel.io_uring_disabled=0")
    error = no_ring(code)
    assert error.errno == code
    assert (reason_of(error).name, str(reason_of(error))) == (name, error.strerror)


@testing.requires("net_admin")
@pytest.mark.parametrize("optmem", [20480, 131072, 0], ids=["20480", "131072", "as it is"])
def test_optmem_max_limits_what_is_in_flight(net: testing.Hold, optmem: int) -> None:
    """What a notification takes is by kernel: 768 bytes on Debian's 6.1, 960 on its 6.12."""
    file = Path("/proc/sys/net/core/optmem_max")
    net.run(loopback_up)  # by which that is found
    try:
        optmem = optmem or int(net.run(file.read_text))
        net.run(lambda: file.write_text(str(optmem)))
    except OSError as error:
        pytest.skip(f"net.core.optmem_max is not of a network here: {error.strerror}")
    found = reported("forbid_rings()", box=net)
    most = _sends_until_refused(net)
    assert found["probe"]["limits"]["optmem_max"] == optmem
    assert found["probe"]["limits"]["optmem_sends"] == most
    assert ("optmem_max" in names(found)) == (optmem == 20480)
    if optmem == 20480:
        assert f"net.core.optmem_max is 20480: {most} sends" in reason_in(found, "optmem_max")


def loopback_up() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")


def _sends_until_refused(box: testing.Hold) -> int:
    """The truth: how many MSG_ZEROCOPY sends are taken while none is delivered."""
    box.stop()
    try:
        with box.socket() as sock:
            if make_room(sock, 4 << 20) < 4 << 20:
                pytest.skip("needs to raise SO_SNDBUF: run as root")
            sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
            sock.connect(box.address)
            return next(count for count in range(1000) if not _is_taken(sock))
    finally:
        box.release()


def _is_taken(sock: socket.socket) -> bool:
    try:
        sock.send(b"in flight", 0x4000000)  # MSG_ZEROCOPY
    except OSError as error:
        return error.errno != errno.ENOBUFS
    return True


# -- limits


@pytest.mark.slow
@testing.requires("unprivileged")
@pytest.mark.parametrize(
    ("kib", "arena", "reasons"),
    [(64, 0, {"memlock", "memlock_ring"}), (2048, 1024, {"memlock"}), (8192, 4096, set())],
)
def test_a_small_memlock_limit_is_reported_with_what_fits(kib: int, arena: int, reasons: set[str]) -> None:
    become = f"become_nobody({kib << 10})"
    found = reported(become, part="probe")
    assert found["probe"]["engine"] == "io_uring"
    assert found["probe"]["limits"]["memlock"] == kib << 10
    assert found["probe"]["limits"]["arena"] == arena << 10
    assert {*names(found)} - ALWAYS == reasons
    if reasons:
        said = reason_in(found, "memlock")
        assert f"of the 4096 KiB of an arena {f'only {arena} KiB' if arena else 'nothing'} can be" in said
        assert f"RLIMIT_MEMLOCK is {kib} KiB per user; raise it with `ulimit -l`" in said
    sender, says = reported(become, part="sender")["sender"]
    assert sender == "io_uring"
    assert (f"an arena of {arena} KiB." if arena else "KiB, not registered (see RLIMIT_MEMLOCK)") in says
    scheduler = "msg_zerocopy" if "memlock_ring" in reasons else "io_uring"
    assert reported(become, part="scheduler")["scheduler"] == scheduler


@testing.requires("unprivileged")
def test_a_memlock_limit_too_small_for_a_ring_falls_back() -> None:
    found = reported("become_nobody(4096)")
    assert found["sender"][0] == "msg_zerocopy"
    code, text = found["errors"]["io_uring"]
    assert code == errno.ENOMEM
    assert "RLIMIT_MEMLOCK) is 4 KiB per user, more is needed; raise it with `ulimit -l`" in text
    assert "memlock" in names(found)


def test_cap_ipc_lock_lifts_the_memlock_limit() -> None:
    if not capable(14):
        pytest.skip("needs CAP_IPC_LOCK: run as root")
    found = reported("resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))")
    assert found["probe"]["limits"]["memlock"] is None
    assert found["probe"]["limits"]["arena"] == 4 << 20


@testing.requires("unprivileged")
@pytest.mark.alone
def test_wmem_max_limits_the_send_buffer(sysctl: Sysctl) -> None:
    found = reported_under(sysctl, {"net.core.wmem_max": 212992}, "become_nobody()")
    assert found["probe"]["limits"]["sndbuf"] == 2 * 212992
    said = "SO_SNDBUF gets 416 of 8192 KiB, net.core.wmem_max is 212992: less can be in flight; "
    assert reason_in(found, "wmem_max") == f"{said}sysctl net.core.wmem_max=4194304"
    enough = reported_under(sysctl, {"net.core.wmem_max": 4194304}, "become_nobody()")
    assert "wmem_max" not in names(enough)


# -- what an older kernel lacks


@pytest.mark.parametrize(
    ("lacking", "name"),
    [("report_usage", "report_usage"), ("sendmsg_zc", "sendmsg_zc"), ("fixed_message", "fixed_message")],
)
def test_a_missing_feature_names_the_kernel_that_has_it(
    lacking: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"send_zc": True, "sendmsg_zc": True, "report_usage": True, "fixed_message": True}
    monkeypatch.setattr(capabilities, "features", lambda: Features(**there | {lacking: False}))
    (reason,) = (each for each in uringzc.probe().details if each.name == name)
    assert reason.fix.startswith("run Linux 6.")


# -- the environment


def test_the_environment_variable_chooses_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URINGZC_ENGINE", "copy")
    found = uringzc.probe()
    assert found.engine == "copy"
    assert found.details[0].name == "environment"
    assert found.fixes[0] == "unset URINGZC_ENGINE"
    assert found.engines["io_uring"] is None
    monkeypatch.setenv("URINGZC_ENGINE", "none such")
    with pytest.raises(ValueError, match=r"^URINGZC_ENGINE in the environment is .* not 'none such'"):
        uringzc.probe()
    wrongs: tuple[Any, ...] = ("", "COPY", None, 1, ["copy"], {})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"^engine is 'auto' or one of"):
            uringzc.Scheduler(engine=wrong)


def test_an_engine_of_the_environment_that_does_not_work_is_reported() -> None:
    program = """
        from refusals import *
        os.environ["URINGZC_ENGINE"] = "io_uring"
        forbid_rings()
        print(json.dumps([uringzc.probe().as_dict(), refused("auto")]))
    """
    found, (code, text) = json.loads(run_program(program)[0])
    assert found["engine"] == "none"
    assert [each["name"] for each in found["details"]][:2] == ["environment", "seccomp_eperm"]
    assert code == errno.EPERM
    assert text.startswith(found["details"][1]["text"])


# -- what it is made of


def test_probe_has_text_and_json() -> None:
    found = uringzc.probe()
    assert found.engine == "io_uring"
    assert str(found).startswith("engine: io_uring")
    assert json.loads(json.dumps(found.as_dict()))["engine"] == "io_uring"
    assert len(found.reasons) == len(found.fixes) == len(found.details)
    assert found.route is None
    with pytest.raises(FrozenInstanceError):
        found.engine = "copy"  # type: ignore[misc]
    assert uringzc.probe() == found


@pytest.mark.slow
def test_emfile_is_not_remembered_as_a_missing_feature() -> None:
    """What io_uring offers is asked once, and kept: it is not asked halfway."""
    program = """
        import os, resource, sys, uringzc
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        ring = len(os.listdir("/proc/self/fd")) - 1 + int(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (ring, before[1]))
        try:
            uringzc.Scheduler(engine="io_uring").close()
        except OSError as error:
            print(error.errno)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        found = uringzc.probe()
        print(found.engine, found.features)
    """
    plain = run_program(program, 100)[0]
    assert [run_program(program, free)[0] for free in (1, 2)] == [f"{errno.EMFILE}\n{plain}"] * 2


def test_a_reason_prints_its_fix_if_it_has_one() -> None:
    assert str(Reason("name", "it is so", "")) == "it is so"
    assert str(Reason("name", "it is so", "change it")) == "it is so; change it"
    assert reason_of(OSError(errno.EMFILE, "Too many open files")).text == "Too many open files"


def test_control_the_seccomp_filter_matches_arguments() -> None:
    """Or the tests above would show less than they seem to."""
    program = """
        from refusals import *
        forbid_zerocopy()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
            except OSError as error:
                print(error.errno)
    """
    assert run_program(program)[0] == f"{errno.ENOPROTOOPT}\n"
