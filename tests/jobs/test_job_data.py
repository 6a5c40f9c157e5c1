"""Jobs and results are plain data: checked, pickled, as JSON, added up over the time that they share."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from uringzc.jobs import (
    Count,
    Job,
    Received,
    ReceiveJob,
    Result,
    StreamReport,
    parse_address,
    parse_rate,
    total,
)

pytestmark = pytest.mark.engines()
SECOND = 1_000_000_000
TO = "127.0.0.1:9"


def result(start: float, end: float, per_interval: int = 10, **changed: Any) -> Result:
    """Of a job that sent so many datagrams of 100 bytes in each tenth of a second, and 1 outside of those."""
    first, behind = -(-round(start * 10) // 1), round(end * 10)
    counts = tuple(Count(number, per_interval, 100 * per_interval) for number in range(first, behind))
    datagrams = sum(count.datagrams for count in counts)
    made = Result(
        start_ns=round(start * SECOND),
        end_ns=round(end * SECOND),
        pps=datagrams / (end - start),
        bits_per_second=800 * datagrams / (end - start),
        datagrams=datagrams,
        nbytes=100 * datagrams,
        interval_ns=SECOND // 10,
        counts=counts,
        lost=1,
        errors={"Connection refused": 2},
        cpu_ns=1000 * datagrams,
        trains={1: 0, 2: 5},
        mean_train=2.0,
        requests=5,
        syscalls=1,
        zero_copy=4,
        copied=1,
        engine="copy",
        explain="copy, trains of up to 64 datagrams.",
        stream=7,
        stopped="count",
        failed=("1 datagram could not be sent",),
    )
    return replace(made, **changed)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("3pps", 3, "pps"),
        ("200kpps", 200e3, "pps"),
        ("1.5Mpps", 1.5e6, "pps"),
        ("9bit", 9, "bit"),
        ("64kbit", 64e3, "bit"),
        ("100Mbit", 100e6, "bit"),
        ("2.5Gbit", 2.5e9, "bit"),
        ("2MB", 16e6, "bit"),
        ("1KiB", 8192, "bit"),
    ],
)
def test_rates(text: str, value: float, unit: str) -> None:
    assert parse_rate(text) == (value, unit)


def test_a_rate_in_bits_is_of_payload() -> None:
    assert parse_rate("8kbit").pps(100) == 10


@pytest.mark.parametrize(
    "text", ["", "5", "kpps", "5 kpps", "-5pps", "5KPPS", "5Gpps", "0pps", "9999Gbit", "1e3pps"]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rate(text)


def test_addresses() -> None:
    assert parse_address("192.0.2.7:9000") == ("192.0.2.7", 9000)
    assert parse_address("[fe80::1%eth0]:9") == ("fe80::1%eth0", 9)
    assert parse_address(":0") == ("", 0)
    for text in ("", "host", "host:", "host:x", "::1:9000", "host:65536", "host:-1", "host:\u0661"):
        with pytest.raises(ValueError, match=r"HOST:PORT|port"):
            parse_address(text)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "no end"),
        ({"to": (), "count": 1}, "destination"),
        ({"to": "127.0.0.1:0", "count": 1}, "port not 0"),
        ({"to": ":9", "count": 1}, "no destination"),
        ({"count": 0}, "count"),
        ({"nbytes": -1}, "nbytes"),
        ({"duration": float("nan")}, "duration"),
        ({"count": 1, "size": 0}, "bytes"),
        ({"count": 1, "size": 65508}, "bytes"),
        ({"count": 1, "rate": "fast"}, "rate"),
        ({"count": 1, "bind": "here"}, "HOST:PORT"),
        ({"count": 1, "interval": 0.0}, "interval"),
        ({"count": 1, "stream": 2**32}, "stream"),
        ({"count": 1, "spread": True}, "several"),
        ({"count": 1, "numbered": True}, "for a file"),
        ({"count": 1, "repeat": 2}, "for a file"),
        ({"file": "x", "share": (4, 4)}, "share"),
        ({"file": "x", "repeat": 0}, "repeat"),
        ({"file": "x", "repeat": -1}, "repeat"),
        ({"file": "x", "to": (TO, "127.0.0.1:10"), "spread": True}, "share"),
        ({"file": "x", "lines": True, "numbered": True}, "numbered"),
        ({"file": "x", "lines": True, "pcap": True}, "not both"),
        ({"file": "x", "lines": True, "nbytes": 5}, "nbytes"),
        ({"file": "x", "lines": True, "share": (0, 2)}, "share"),
        ({"file": "x", "numbered": True, "size": 40}, "header"),
        ({"file": "-", "pcap": True}, "standard input"),
        ({"file": "-", "repeat": 2}, "standard input"),
        ({"file": "x", "pcap": True, "speed": -1.0}, "speed"),
    ],
)
def test_a_job_that_cannot_be_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Job(**{"to": TO, **options})


@pytest.mark.parametrize(
    "options",
    [{"bind": "x"}, {"count": 0}, {"idle": -1.0}, {"duration": 0.0}, {"rcvbuf": 0}, {"interval": 0.0}],
)
def test_a_receive_job_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options)) if "bind" not in options else "HOST"):
        ReceiveJob(**{"bind": TO, **options})


def test_what_is_plain_data_survives_pickle_and_json() -> None:
    job = Job(to=[TO, TO, "127.0.0.1:10"], count=5, rate="3pps", spread=True, start_at=1.5, stream=3)
    assert job.to == (TO, "127.0.0.1:10")
    assert pickle.loads(pickle.dumps(job)) == job
    assert Job(**json.loads(json.dumps(job.as_dict()))) == job
    done = result(10, 11)
    assert pickle.loads(pickle.dumps(done)) == done
    assert Result.from_dict(json.loads(json.dumps(done.as_dict()))) == done
    stream = StreamReport(7, TO, 9, 900, 10, 1, 0, 0, 0, 0, True, False, {"min": 5.0, "p50": 7.0, "max": 9.0})
    assert stream.latency_above_min == {"p50": 2.0, "max": 4.0}
    came = Received(TO, 1, 2, 1.0, 8.0, 9, 900, 5, (Count(1, 9, 900),), 0, (stream,), 0, 1, 0, 1, "ended")
    assert (came.lost, came.lost_share) == (1, 0.1)
    assert Received.from_dict(json.loads(json.dumps(came.as_dict()))) == came
    assert pickle.loads(pickle.dumps(came)) == came


def test_jobs_from_json_have_the_types_of_their_fields() -> None:
    whole = Job([TO, "127.0.0.1:10"], file="f", numbered=True, share=(1, 2), start_at=1.5, rate="1kpps")
    assert Job.from_dict(json.loads(json.dumps(whole.as_dict()))) == whole
    assert Job.from_dict({"to": TO, "duration": 1}) == Job(TO, duration=1.0)  # an int where a float may be
    assert ReceiveJob.from_dict({"bind": ":0", "idle": None}) == ReceiveJob(":0")
    for wrong in (
        {"to": 5}, {"to": [5]}, {"share": 3}, {"share": [0, 1, 2]}, {"share": [0, "2"]}, {"count": 1.5},
        {"start_at": "x"}, {"numbered": "yes"}, {"rate": 200},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} of a Job cannot be "):
            Job.from_dict({"to": TO, "count": 1, **wrong})
    with pytest.raises(ValueError, match="a ReceiveJob has no 'to'"):
        ReceiveJob.from_dict({"bind": ":0", "to": TO})


def test_to_import_jobs_needs_no_numpy() -> None:
    code = "import sys, uringzc.cli, uringzc.jobs; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_total_counts_rates_over_the_time_in_which_all_ran() -> None:
    parts = [result(10, 13), result(11.05, 14), result(10, 12.98, 20)]
    summed = total(parts)
    assert (summed.start_ns, summed.end_ns) == (11_100_000_000, 12_900_000_000)
    assert summed.pps == pytest.approx(400)
    assert summed.bits_per_second == pytest.approx(320_000)
    assert [count.number for count in summed.counts] == list(range(111, 129))
    assert {count.datagrams for count in summed.counts} == {40}
    assert summed.datagrams == sum(part.datagrams for part in parts)
    assert (summed.jobs, summed.lost, summed.copied, summed.errors) == (3, 3, 3, {"Connection refused": 6})
    assert (summed.trains, summed.mean_train) == ({1: 0, 2: 15}, 2.0)
    assert summed.failed == parts[0].failed * 3
    assert summed.engine == "copy"


def test_totals_can_be_added_up_again() -> None:
    parts = [result(10, 13), result(10, 13, 20), result(11, 14)]
    assert total([total(parts[:2]), parts[2]]).pps == pytest.approx(total(parts).pps)
    assert total(parts[:1]) == parts[0]


def test_what_cannot_be_added_up_is_refused() -> None:
    with pytest.raises(ValueError, match="no results"):
        total([])
    with pytest.raises(ValueError, match=r"in common: the last began at 20\.000, the first ended at 13\.000"):
        total([result(10, 13), result(20, 23)])
    with pytest.raises(ValueError, match="in common"):  # less than an interval is
        total([result(10, 12.15), result(12.05, 13)])
    with pytest.raises(ValueError, match="different intervals"):
        total([result(10, 13), result(10, 13, interval_ns=SECOND)])
