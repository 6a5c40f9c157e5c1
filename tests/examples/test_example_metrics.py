"""examples/metrics.py: a scrape has every number of the sender's stats, and its errors."""

import re
import signal
import urllib.request
from dataclasses import fields

import pytest
from test_examples_udp import Program, finish, nobody, started
from traffic import wait_until

import uringzc
from uringzc import testing

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.slow, pytest.mark.engines()]
PROGRAM = "metrics.py"
Samples = dict[tuple[str, str], float]


def url(process: Program) -> str:
    """Where it answers scrapes."""
    assert process.stdout
    line = process.stdout.readline()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics\n", line), process.communicate()
    return line.strip()


def scrape(address: str) -> Samples:
    """The values, by the name of the metric and its label."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("uringzc_")
    }


def test_a_scrape_has_the_statistics() -> None:
    with testing.receiver() as rx, started(PROGRAM, *rx.address, "--metrics-port", 0) as process:
        address = url(process)
        rx.wait(3)
        first = scrape(address)
        rx.wait(int(first["uringzc_datagrams_total", ""]) + 3)
        second = scrape(address)
        process.send_signal(signal.SIGINT)
        finish(process)
    named = {re.sub(r"^uringzc_|_total$", "", name) for name, _ in first}
    assert named >= {field.name for field in fields(uringzc.UdpStats) if field.type is int}
    assert first["uringzc_datagrams_total", ""] < second["uringzc_datagrams_total", ""]
    assert second["uringzc_sndbuf", ""] > 0
    assert second["uringzc_lost_total", ""] == 0


def test_errors_are_counted_by_their_name() -> None:
    with started(PROGRAM, *nobody(), "--metrics-port", 0) as process:
        address = url(process)
        assert wait_until(lambda: scrape(address).get(("uringzc_errors_total", "ECONNREFUSED"), 0) > 2)
        process.send_signal(signal.SIGINT)
        finish(process)
