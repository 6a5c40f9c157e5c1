"""run() and receive() over real sockets: what leaves, what comes, and what is found to be wrong."""

import os
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from both_ends import both, on_the_way, put, receiving, sent_by

from uringzc import testing
from uringzc.jobs import Interrupted, Job, Progress, ReceiveJob, receive, run, sending, total
from uringzc.jobs.header import SIZE

once = pytest.mark.engines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(100_321))
    return path


# -- on every engine


def test_everything_comes_and_is_counted(engine: str) -> None:
    result, received = both(count=500, rate="50kpps", size=200, stream=77)
    assert (result.datagrams, result.nbytes, result.engine, result.stopped) == (500, 100_000, engine, "count")
    assert (result.lost, result.errors) == (0, {})
    assert sum(count.datagrams for count in result.counts) == 500
    assert sum(count.nbytes for count in received.counts) == 100_000
    (stream,) = received.streams
    assert (stream.stream, stream.datagrams, stream.expected, stream.nbytes) == (77, 500, 500, 100_000)
    assert (stream.lost, stream.head, stream.duplicates, stream.reordered, stream.corrupt) == (0, 0, 0, 0, 0)
    assert stream.ended
    assert stream.same_clock
    assert 0 < stream.latency["min"] <= stream.latency["p50"] <= stream.latency["max"] < 20e9
    assert (received.datagrams, received.unnumbered, received.dropped) == (500, 0, 0)
    assert received.stopped == "ended"
    assert result.cpu_ns_per_datagram > 0
    assert sum(result.trains.values()) > 0


@pytest.mark.parametrize("numbered", [True, False])
def test_a_file_arrives_as_it_is(file: Path, tmp_path: Path, numbered: bool) -> None:
    copy = tmp_path / "copy"
    ends: dict[str, Any] = {"output": str(copy)} if numbered else {"output": str(copy), "count": 101}
    result, received = both(receiver=ends, file=str(file), size=1000, rate="20kpps", numbered=numbered)
    assert copy.read_bytes() == file.read_bytes()
    assert (result.stopped, result.datagrams, received.written) == ("end", 101 + 4 * numbered, 100_321)


def test_nobody_receives(engine: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    result = run(Job(to=f"127.0.0.1:{port}", count=3))
    assert result.errors["Connection refused"] > 0
    assert "Connection refused" in result.failed[0]


@testing.requires("net_admin")
def test_in_a_sandbox(engine: str) -> None:
    with testing.hold(delay=0.001) as box:
        ready, address = threading.Event(), list[str]()

        def note(bind: str) -> None:
            address.append(bind)
            ready.set()

        thread = threading.Thread(
            target=lambda: found.append(
                box.peer.run(lambda: receive(ReceiveJob(f"{box.address[0]}:9000"), ready=note))
            )
        )
        found: list[Any] = []
        thread.start()
        assert ready.wait(20)
        result = box.run(lambda: run(Job(to=address[0], count=300, rate="20kpps")))
        thread.join()
        assert (result.datagrams, found[0].datagrams, found[0].lost) == (300, 300, 0)
        (stream,) = found[0].streams
        assert not stream.same_clock  # another address: perhaps another machine
        assert stream.latency_above_min["max"] >= stream.latency_above_min["p50"] >= 0


# -- sources


@once
def test_generated_datagrams_too_small_for_a_header_are_counted() -> None:
    result, received = both(receiver={"count": 50}, count=50, size=39, rate="20kpps")
    assert (result.nbytes, received.unnumbered, received.streams) == (50 * 39, 50, ())
    assert both(count=50, size=SIZE, rate="20kpps")[1].streams[0].datagrams == 50


@once
def test_limits() -> None:
    result, received = both(nbytes=1001, size=100)
    assert (result.datagrams, result.stopped, received.datagrams) == (11, "nbytes", 11)
    result, received = both(duration=0.2, rate="100pps", size=100)
    assert 0 < result.datagrams == received.datagrams <= 20
    assert result.stopped == "duration"
    assert result.seconds >= 0.2
    assert both(duration=0.05, size=60000)[0].datagrams > 0


@once
def test_a_file_in_shares_and_repeated(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with receiving(output=str(copy), count=105) as end:
        parts = [
            run(Job(to=end.address, file=str(file), numbered=True, size=1000, share=(i, 3)))
            for i in (2, 0, 1)
        ]
    assert copy.read_bytes() == file.read_bytes()
    assert len(end.received.streams) == 3
    assert end.received.lost == 0
    assert sum(part.datagrams for part in parts) == 105
    assert b"".join(sent_by(file=str(file), size=5000, share=(1, 2))) == file.read_bytes()[50_000:]
    assert b"".join(sent_by(file=str(file), size=60000, repeat=2)) == 2 * file.read_bytes()
    assert len(sent_by(file=str(file), size=60000, repeat=0, count=7)) == 7


@once
def test_ends_of_streams_do_not_count() -> None:
    """All is read at once, so that they are among the datagrams."""
    datagrams = [one for stream in (1, 2) for one in sent_by(count=5, size=100, stream=stream)]
    assert len(datagrams) == 2 * (5 + 3)
    job = ReceiveJob("127.0.0.1:0", count=10, duration=10)
    received = receive(job, ready=lambda bind: put(bind, datagrams))
    assert (received.stopped, received.datagrams) == ("count", 10)


@once
def test_an_empty_file_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    path = str(tmp_path / "empty")
    assert run(Job(to="127.0.0.1:9", file=path)).datagrams == 0
    assert run(Job(to="127.0.0.1:9", file=path, lines=True)).datagrams == 0
    result, received = both(file=path, numbered=True)
    assert (result.datagrams, received.streams[0].expected, received.streams[0].ended) == (0, 0, True)


@once
def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\n\ntwo\r\n" + b"x" * 70_00 + b"\nlast")
    assert sent_by(file=str(path), lines=True) == [b"one\n", b"\n", b"two\r\n", b"x" * 7000 + b"\n", b"last"]
    path.write_bytes(b"x" * 70_000)
    with pytest.raises(ValueError, match="a line has more than"):
        run(Job(to="127.0.0.1:9", file=str(path), lines=True))


@once
def test_a_pipe_is_sent_as_it_comes(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with testing.receiver() as rx:
        job = Job(to=f"127.0.0.1:{rx.address[1]}", file=str(fifo), size=10)
        thread = threading.Thread(target=run, args=(job,))
        thread.start()
        with open(fifo, "wb", buffering=0) as pipe:
            pipe.write(b"0123456789abc")
            assert rx.wait(1) == [b"0123456789"]  # the pipe is still open
            pipe.write(b"defghijkl")
            assert rx.wait(2)[1:] == [b"abcdefghij"]
        thread.join()
        assert rx.wait(3)[2:] == [b"kl"]


def pcap(*packets: tuple[float, bytes]) -> bytes:
    """A capture of bare IPv4, of UDP payloads at these times."""
    data = (0xA1B2C3D4).to_bytes(4, "little") + b"\2\0\4\0" + bytes(8) + b"\xff\xff\0\0" + b"\x0c\0\0\0"
    for when, payload in packets:
        udp = b"\0\1\0\2" + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
        ip = b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0" + bytes(8) + udp
        stamp = int(when).to_bytes(4, "little") + round(when % 1 * 1e6).to_bytes(4, "little")
        data += stamp + 2 * len(ip).to_bytes(4, "little") + ip
    return data


@once
def test_a_capture_keeps_its_timing(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap((5.0, b"one"), (5.01, b"two!"), (5.3, b"three")))
    with testing.receiver() as rx:
        to = f"127.0.0.1:{rx.address[1]}"
        result = run(Job(to=to, file=str(path), pcap=True))
        assert rx.wait(3) == [b"one", b"two!", b"three"]
        assert (result.datagrams, result.nbytes, result.failed) == (3, 12, ())  # its pace is no rate
        assert result.seconds >= 0.3
        assert result.counts[-1].number - result.counts[0].number >= 2
        assert run(Job(to=to, file=str(path), pcap=True, speed=0, repeat=2, count=5)).datagrams == 5
        assert rx.wait(8)[3:] == [b"one", b"two!", b"three", b"one", b"two!"]
    for wrong in (b"", b"no capture"):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match="no pcap file"):
            run(Job(to=to, file=str(path), pcap=True))


# -- destinations


@once
def test_several_destinations_get_the_same_or_share() -> None:
    with receiving() as one, receiving() as two:
        result = run(Job(to=(one.address, two.address), count=100, rate="10kpps"))
    assert (result.datagrams, one.received.datagrams, two.received.datagrams) == (200, 100, 100)
    assert one.received.streams[0].stream == two.received.streams[0].stream
    assert result.pps == pytest.approx(200 / result.seconds)
    with receiving() as one, receiving() as two:
        result = run(Job(to=(one.address, two.address), count=100, rate="1kpps", spread=True))
    assert (result.datagrams, one.received.datagrams, two.received.datagrams) == (100, 50, 50)
    assert one.received.streams[0].stream != two.received.streams[0].stream
    assert (one.received.lost, two.received.lost) == (0, 0)
    with pytest.raises(ValueError, match="IPv4 and IPv6"):
        run(Job(to=("127.0.0.1:9", "[::1]:9"), count=1))


@once
def test_ipv6_and_multicast() -> None:
    _, received = both(receiver={"bind": "[::1]:0"}, count=10)
    assert received.datagrams == 10
    assert received.streams[0].address.startswith("[::1]:")
    with receiving("239.255.77.1:0", interface="lo") as end:
        run(Job(to=end.address, count=10, interface="127.0.0.1", ttl=1))
    assert end.received.datagrams == 10


# -- what is wrong on the way


def drop(datagrams: list[bytes]) -> list[bytes]:
    return [datagram for i, datagram in enumerate(datagrams) if i not in (0, 1, 7, 19)]


def repeat(datagrams: list[bytes]) -> list[bytes]:
    return [*datagrams[:5], datagrams[3], datagrams[4], *datagrams[5:]]


def swap(datagrams: list[bytes]) -> list[bytes]:
    return [datagrams[1], datagrams[0], *datagrams[2:5], *datagrams[6:10], datagrams[5], *datagrams[10:]]


def corrupt(datagrams: list[bytes]) -> list[bytes]:
    return [datagrams[0], datagrams[1][:-1] + bytes([datagrams[1][-1] ^ 4]), *datagrams[2:]]


def cut(datagrams: list[bytes]) -> list[bytes]:
    return [datagrams[0][:80], *datagrams[1:]]


@once
@pytest.mark.parametrize(
    ("change", "lost", "head", "duplicates", "reordered", "corrupt"),
    [
        (list, 0, 0, 0, 0, 0),
        (drop, 4, 2, 0, 0, 0),
        (repeat, 0, 0, 2, 0, 0),
        (swap, 0, 0, 0, 2, 0),
        (corrupt, 1, 0, 0, 0, 1),
        (cut, 1, 1, 0, 0, 1),
    ],
)
def test_what_is_wrong_is_found(
    change: Callable[[list[bytes]], list[bytes]],
    lost: int,
    head: int,
    duplicates: int,
    reordered: int,
    corrupt: int,
) -> None:
    received = on_the_way(change, count=20, size=100)
    (stream,) = received.streams
    assert (stream.expected, stream.lost, stream.head) == (20, lost, head)
    assert (stream.duplicates, stream.reordered, stream.corrupt) == (duplicates, reordered, corrupt)
    assert received.lost_share == lost / 20


@once
def test_other_datagrams_do_not_disturb() -> None:
    others = [b"", b"x", b"ucz1", b"y" * 40, b"z" * 2000]

    def mix(datagrams: list[bytes]) -> list[bytes]:
        return [*others, *datagrams, *others]

    received = on_the_way(mix, count=20, size=100)
    assert (received.unnumbered, received.datagrams, received.lost) == (10, 30, 0)


@once
def test_streams_are_told_apart(tmp_path: Path) -> None:
    two = [sent_by(count=30, size=60, stream=number) for number in (1, 2)]
    mixed = [datagram for pair in zip(*two, strict=True) for datagram in pair]
    with receiving() as end:
        end.put([datagram for datagram in mixed if datagram is not two[1][5]])
    assert {stream.stream: stream.lost for stream in end.received.streams} == {1: 0, 2: 1}


@once
def test_a_stream_that_does_not_end() -> None:
    with receiving(idle=0.7) as end:
        end.put(sent_by(count=20, size=100)[:10])
    assert end.received.stopped == "idle"
    assert (end.received.streams[0].ended, end.received.streams[0].expected) == (False, 10)


# -- when it ends


@once
def test_a_receiver_ends_as_its_job_says() -> None:
    with receiving(count=3) as end:
        end.put([b"a"] * 5)
    assert (end.received.datagrams, end.received.stopped) == (3, "count")
    with receiving(duration=0.2) as end:
        pass
    assert (end.received.datagrams, end.received.stopped, end.received.pps) == (0, "duration", 0.0)
    with receiving(idle=0.2, output="/dev/null") as end:
        end.put([b"a"])
    assert (end.received.datagrams, end.received.stopped) == (1, "idle")


@once
def test_start_at() -> None:
    begin = time.time() + 0.4
    result, _ = both(count=5, start_at=begin)
    assert 0 <= result.start_ns / 1e9 - begin < 5
    assert result.counts[0].number >= int(begin * 10)
    assert not any("start_at" in sentence for sentence in result.failed)
    late, _ = both(count=5, start_at=time.time() - 60)
    assert late.datagrams == 5
    assert " s after its start_at" in late.failed[0]


@once
def test_jobs_that_begin_together_are_added_up() -> None:
    begin = time.time() + 0.3
    results: list[Any] = []
    with receiving(idle=1.0) as end:
        jobs = [Job(to=end.address, rate="2kpps", duration=0.6, start_at=begin) for _ in range(2)]
        threads = [threading.Thread(target=lambda job=job: results.append(run(job))) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    summed = total(results)
    assert 0 < summed.datagrams == end.received.datagrams <= 2400
    assert summed.start_ns >= begin * 1e9
    seconds, inside = summed.seconds, sum(count.datagrams for count in summed.counts)
    assert summed.pps == pytest.approx(inside / seconds)
    assert inside < summed.datagrams  # what is before and behind is not of the common time


@once
def test_a_rate_that_is_not_reached_is_said() -> None:
    with testing.receiver() as rx:
        result = run(Job(to=f"127.0.0.1:{rx.address[1]}", duration=0.2, size=1400, rate="1000Gbit"))
    assert any(sentence.endswith("% of 1000Gbit") for sentence in result.failed)


@once
def test_an_interrupt_has_the_result_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_SHOW", 0.0)

    def interrupt(progress: Progress) -> None:
        assert progress.total == 1000
        if progress.datagrams >= 30:
            raise KeyboardInterrupt

    with receiving() as end, pytest.raises(Interrupted) as caught:
        run(Job(to=end.address, count=1000, rate="1kpps"), interrupt)
    result = caught.value.result
    assert 30 <= result.datagrams < 1000
    assert result.stopped == "interrupt"
    assert (end.received.datagrams, end.received.lost) == (result.datagrams, 0)


@once
def test_what_cannot_be_begun_is_raised(tmp_path: Path) -> None:
    for wrong, error in (
        ({"to": "host.invalid:9"}, OSError),
        ({"file": str(tmp_path / "none")}, FileNotFoundError),
        ({"file": str(tmp_path)}, IsADirectoryError),
        ({"engine": "none"}, ValueError),
        ({"bind": "192.0.2.1:0"}, OSError),
        ({"interface": "no-such"}, OSError),
    ):
        with pytest.raises(error):
            run(Job(**{"to": "127.0.0.1:9", "count": 1, **wrong}))  # type: ignore[arg-type]
    for bind in ("192.0.2.1:9", "host.invalid:9"):
        with pytest.raises(OSError, match=r".+"):
            receive(ReceiveJob(bind))
    with pytest.raises(ValueError, match="none"):
        receive(ReceiveJob("127.0.0.1:0", interface="lo"))
    with pytest.raises(OSError, match="No such file"):
        receive(ReceiveJob("127.0.0.1:0", output=str(tmp_path / "no" / "file")))
