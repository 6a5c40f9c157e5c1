"""`uringzc doctor`: its text and its JSON are those of probe(), and it never ends in a traceback."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from processes import child, run_program

import uringzc
from uringzc import testing
from uringzc.cli import main
from uringzc.doctor import route

pytestmark = [pytest.mark.engines(), testing.requires("send_zc")]

Doctor = Callable[..., Result]

REFUSED = """
from refusals import *
from uringzc.cli import main
{}
main(["doctor", *{!r}])
"""


@pytest.fixture
def doctor() -> Doctor:
    """Runs the command in this process, inside `box` if there is one."""

    def run(*options: str, box: testing.Sandbox | None = None) -> Result:
        def go() -> Result:
            return CliRunner().invoke(main, ["doctor", *options], env={"COLUMNS": "200"})

        result = box.run(go) if box else go()
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


def row(output: str, name: str) -> str:
    """A line of a table, with one space between its columns."""
    (found,) = (line for line in output.splitlines() if line.startswith(f"{name}  "))
    return " ".join(found.split())


def refused(*doing: str, options: tuple[str, ...] = ()) -> str:
    """What it prints where something is refused; it has to end with 0."""
    return run_program(REFUSED.format("\n".join(doing), options))[0]


def test_doctor_lists_what_works(doctor: Doctor) -> None:
    result = doctor()
    assert result.exit_code == 0
    for engine in ("io_uring", "msg_zerocopy", "copy"):
        assert row(result.output, engine).startswith(f"{engine} yes")
    assert row(result.output, "io_uring").endswith('what engine="auto" picks')
    limits = uringzc.probe().limits
    assert row(result.output, "trains") == f"trains {limits.segments} datagrams UDP_SEGMENT"
    assert row(result.output, "registered arena").startswith(f"registered arena {limits.arena >> 10} KiB of")
    assert row(result.output, "send buffer").startswith(f"send buffer {limits.sndbuf >> 10} KiB")
    assert row(result.output, "MSG_ZEROCOPY").startswith(
        f"MSG_ZEROCOPY {limits.optmem_sends} sends in flight"
    )
    assert "The way to" not in result.output
    assert ("Nothing is in the way." in result.output) == (uringzc.probe().details == ())


def test_json_has_all_of_probe(doctor: Doctor) -> None:
    result = doctor("--json")
    assert result.exit_code == 0
    found = json.loads(result.output)
    probed: dict[str, Any] = json.loads(json.dumps(uringzc.probe().as_dict()))
    assert {name: found[name] for name in probed} == probed
    assert found["version"] == uringzc.__version__
    assert {*found} - {*probed} == {"version", "kernel", "machine", "python", "calibration", "sender"}
    assert found["sender"] is None


def test_doctor_names_what_does_not_work_and_the_fix() -> None:
    out = " ".join(refused("forbid_rings()", "os.environ['COLUMNS'] = '80'").split())
    assert "io_uring no seccomp_eperm: see below" in out
    assert 'msg_zerocopy yes what engine="auto" picks' in out
    assert "a seccomp filter forbids it, as container profiles do (EPERM)" in out
    assert "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile" in out
    assert "registered arena" not in out  # this engine registers nothing
    assert "Nothing is in the way" not in out


def test_an_engine_that_is_not_needed_has_no_fix() -> None:
    out = " ".join(refused("forbid_zerocopy()").split())
    assert 'io_uring yes what engine="auto" picks' in out
    assert "msg_zerocopy no MSG_ZEROCOPY cannot be used: sockets have no SO_ZEROCOPY here" in out


def test_json_has_the_refusals() -> None:
    out = refused("forbid_rings(errno.ENOSYS)", "forbid_zerocopy()", options=("127.0.0.1", "--json"))
    found = json.loads(out)
    assert found["engine"] == "copy"
    assert [each["name"] for each in found["details"]][:2] == ["seccomp_enosys", "so_zerocopy"]
    assert found["details"][-1]["name"] == "loopback"
    assert not found["sender"]["zero_copy"]
    assert found["sender"]["why"] == "the engine does nothing but copy"
    assert found["sender"]["explain"].startswith("copy, trains of up to")


def test_without_a_working_engine_the_status_is_1() -> None:
    doing = "os.environ['URINGZC_ENGINE'] = 'io_uring'\nforbid_rings()"
    with child(REFUSED.format(doing, ("127.0.0.1", "--json"))) as started:
        out, errors = started.end(1)
    found = json.loads(out)
    assert (found["engine"], found["sender"]) == ("none", None)
    assert [each["name"] for each in found["details"]][:2] == ["environment", "seccomp_eperm"]
    assert errors == ""


# -- with a host


@testing.requires("net_admin")
def test_doctor_describes_the_route_to_a_host(doctor: Doctor, sink: testing.Sandbox) -> None:
    out = doctor("10.0.0.2", box=sink).output
    assert "The way to 10.0.0.2" in out
    assert row(out, "device") == "device ifb0 ifb"
    assert row(out, "MTU") == "MTU 1500 up to 1472 bytes in a datagram that is not fragmented"
    for name in ("checksum offload", "scatter-gather", "UDP segmentation"):
        assert row(out, name) == f"{name} yes"
    assert row(out.partition("The way to")[2], "trains") == "trains 44 x 1472 datagrams, bytes"
    assert row(out, "zero-copy") == "zero-copy yes ifb0 takes the memory as it is"
    assert "A UdpSender says\nio_uring, trains of up to 128 datagrams." in out
    assert row(out, "mtu").startswith("mtu datagrams of more than 1472 bytes are fragmented")


@testing.requires("net_admin")
def test_doctor_names_what_copies_on_the_route(doctor: Doctor, sink: testing.Sandbox) -> None:
    sink.offload(checksum=False)
    try:
        result = doctor("fd00::2", "--json", box=sink)
        out = doctor("fd00::2", box=sink).output
    finally:
        sink.offload(checksum=True, segmentation=True)
    found = json.loads(result.output)
    assert found["route"]["checksum"] is False
    assert found["sender"]["size"] == 1452
    assert found["sender"]["train"] == 45
    assert not found["sender"]["zero_copy"]
    assert found["sender"]["why"].startswith("ifb0 does not checksum what it sends")
    assert row(out, "checksum offload") == "checksum offload no"
    assert "ethtool -K ifb0 tx on" in out


@testing.requires("net_admin")
def test_nothing_is_sent_to_the_host(doctor: Doctor, sink: testing.Sandbox) -> None:
    def sent() -> int:
        import pyroute2

        with pyroute2.IPRoute() as ip:
            (link,) = ip.get_links(socket.if_nametoindex("ifb0"))
        counts = link.get_attr("IFLA_STATS64")
        return int(counts["tx_packets"]) + int(counts["rx_packets"])

    before = sink.run(sent)
    assert doctor("10.0.0.2", box=sink).exit_code == 0
    assert sink.run(sent) == before
    with sink.socket() as sock:  # the control: it would be counted
        sock.sendto(b"one", ("10.0.0.2", 9))
    assert sink.run(sent) > before


def test_doctor_says_that_loopback_copies(doctor: Doctor) -> None:
    out = doctor("localhost").output
    assert "zero-copy" in out
    assert "a sender sees it after 4 requests, and it copies from then on" in " ".join(out.split())


@testing.requires("net_admin")
@pytest.mark.parametrize("checksum", [True, False])
def test_explain_agrees_with_the_route(doctor: Doctor, sink: testing.Sandbox, checksum: bool) -> None:
    sink.offload(checksum=checksum)
    try:
        found = json.loads(doctor("10.0.0.2", "--json", box=sink).output)["sender"]
    finally:
        sink.offload(checksum=True, segmentation=True)
    assert found["zero_copy"] == checksum
    assert "are zero-copy" not in found["explain"]  # it has sent nothing: it cannot know
    assert "Requests of 1024 bytes and more are tried zero-copy first" in found["explain"]


# -- the engines that send frames


@pytest.fixture
def packet() -> None:
    """Skips without it."""
    if reason := uringzc.probe().engines["packet"]:
        pytest.skip(str(reason))


@testing.requires("net_admin")
@pytest.mark.usefixtures("packet")
def test_doctor_says_where_frames_would_go(doctor: Doctor, sink: testing.Sandbox) -> None:
    out = doctor("10.0.0.2", box=sink).output
    assert row(out, "packet") == 'packet yes never engine="auto": Ethernet frames, past the firewall'
    assert row(out, "frames, packet") == (
        "frames, packet yes by ifb0 to 02:00:00:00:00:02, the MAC of 10.0.0.2"
    )
    found = json.loads(doctor("10.0.0.2", "--json", box=sink).output)
    assert found["frames"]["packet"]["mac"] == "02:00:00:00:00:02"
    out = doctor("10.0.0.1", box=sink).output
    assert row(out, "frames, packet") == "frames, packet no the address is this machine's"


@testing.requires("net_admin")
def test_doctor_says_that_af_xdp_copies(doctor: Doctor, sink: testing.Sandbox) -> None:
    if reason := uringzc.probe().engines["af_xdp"]:
        pytest.skip(str(reason))
    out = doctor("10.0.0.2", box=sink).output
    assert row(out, "frames, af_xdp").endswith("the MAC of 10.0.0.2; copied by the kernel (XDP_COPY)")


@pytest.mark.usefixtures("packet")
def test_doctor_says_that_trains_need_a_later_kernel(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no trains" not in doctor().output
    monkeypatch.setattr("uringzc.engines.frames.FrameEngine.max_segments", lambda _: 1)
    assert row(doctor().output, "packet").endswith("past the firewall; no trains before Linux 6.2")


@testing.requires("unprivileged")
def test_doctor_asks_for_cap_net_raw_in_words() -> None:
    out = refused("uringzc.probe()  # imports what nobody may not read", "become_nobody()")
    for name in ("packet", "af_xdp"):
        said = f"{name} no the engine {name} sends frames of its own, which needs CAP_NET_RAW; run as root, "
        assert row(out, name).startswith(said)
    assert "net_raw  " not in out  # no finding: nobody needs them


# -- limits

AS_NOBODY = "from uringzc import _send, cli\nbecome_nobody({})"


@testing.requires("unprivileged")
@pytest.mark.parametrize(
    ("memlock", "sentence"),
    [
        (0, "too little memory may be locked for one send, so every send is copied: RLIMIT_MEMLOCK is 0 KiB"),
        (65536, "at most 64 KiB, in at most 8 sends, can be in flight without a copy: RLIMIT_MEMLOCK is 64 "),
    ],
)
def test_a_small_memlock_limit_is_named(memlock: int, sentence: str) -> None:
    out = refused(AS_NOBODY.format(memlock), "os.environ['URINGZC_ENGINE'] = 'msg_zerocopy'")
    assert sentence in out
    assert row(out, "MSG_ZEROCOPY").startswith(f"MSG_ZEROCOPY {memlock // 8192} sends in flight, by locked")


@testing.requires("unprivileged")
@testing.requires("net_admin")
@pytest.mark.parametrize(("memlock", "copied"), [(0, 1), (4096, 1), (65536, 0)])
def test_a_send_above_the_memlock_limit_is_a_copy(sink: testing.Sandbox, memlock: int, copied: int) -> None:
    """To a device that copies nothing; the last is the control."""
    program = f"""
from refusals import *
tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
tx.connect({sink.address})
become_nobody({memlock})
with uringzc.Scheduler(engine="msg_zerocopy") as s:
    s.send(tx, bytes(1400), flush=True)
    print([n.copied for n in s.reap_notifications(wait=1)])
limits = uringzc.probe().limits
print(limits.memlock_sends > 0)
"""
    assert run_program(program, box=sink)[0].splitlines() == [str([copied]), str(not copied)]


# -- errors


@testing.requires("net_admin")
@pytest.mark.parametrize("options", [("--json",), ()])
def test_a_link_local_host_needs_a_scope(
    doctor: Doctor, sink: testing.Sandbox, options: tuple[str, ...]
) -> None:
    result = doctor("fe80::1", *options, box=sink)
    assert result.exit_code == 1
    assert result.output == (
        "Error: fe80::1 is a link-local address, which may be on any link: name the interface that it is "
        "behind, as in fe80::1%ifb0.\n"
    )
    assert doctor("fe80::1%ifb0", *options, box=sink).exit_code == 0  # the control


@testing.requires("net_admin")
@pytest.mark.parametrize("options", [("--json",), ()])
def test_an_unreachable_host_is_an_error(
    doctor: Doctor, sink: testing.Sandbox, options: tuple[str, ...]
) -> None:
    result = doctor("10.9.9.9", *options, box=sink)
    assert result.exit_code == 1
    assert result.output == "Error: there is no way to 10.9.9.9: Network is unreachable.\n"


@testing.requires("net_admin")
def test_an_unknown_host_is_an_error(doctor: Doctor, sink: testing.Sandbox) -> None:
    result = doctor("no such host", box=sink)
    assert result.exit_code == 1
    assert result.output.startswith("Error: 'no such host' is no host: ")


@testing.requires("net_admin")
def test_a_broadcast_address_is_an_error(doctor: Doctor, sink: testing.Sandbox) -> None:
    result = doctor("10.0.0.255", box=sink)
    assert result.exit_code == 1
    assert result.output.startswith("Error: 10.0.0.255 is a broadcast address: give a `sock` that has ")


def test_a_host_needs_pyroute2(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_route(host: str) -> route.Route:
        raise ModuleNotFoundError("finding a route needs pyroute2: pip install 'uringzc[cli]'")

    monkeypatch.setattr(route, "find_route", find_route)
    result = doctor("127.0.0.1")
    assert result.exit_code == 1
    assert result.output == "Error: finding a route needs pyroute2: pip install 'uringzc[cli]'.\n"
    assert doctor().exit_code == 0


def test_a_bad_environment_variable_is_an_error(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URINGZC_ENGINE", "io-uring")
    result = doctor()
    assert result.exit_code == 1
    assert result.output.startswith("Error: URINGZC_ENGINE in the environment is 'auto' or one of ")
    assert "not 'io-uring'" in result.output


def test_bad_options_have_status_2(doctor: Doctor) -> None:
    assert doctor("--nope").exit_code == 2
    assert doctor("one", "two").exit_code == 2


def test_doctor_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uringzc", "doctor", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["engine"] == "io_uring"
    assert done.stderr == ""
