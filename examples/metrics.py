"""A Prometheus exporter of what a sender does: its statistics and its errors.

    metrics.py 192.0.2.7 9000                # sends a message every 10 ms, to have something to show
    curl http://127.0.0.1:9100/metrics

It needs prometheus_client (pip install prometheus_client). A program of yours needs SenderStats, and of
main() the lines up to start_http_server. The numbers are read when they are scraped: sending costs nothing
more.
"""

import argparse
import contextlib
import dataclasses
import errno
import re
import sys
import time
from collections.abc import Iterator

import uringzc

try:
    from prometheus_client import REGISTRY, Counter, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError:
    sys.exit("metrics.py needs prometheus_client, which is not installed: pip install prometheus_client")

HELP = dict(re.findall(r"^ +(\w+): (.+)$", uringzc.UdpStats.__doc__ or "", re.MULTILINE))
LEVELS = {"waiting", "mean_train", "in_flight", "destinations", "copying", "sndbuf"}  # what may become less


class SenderStats(Collector):
    """The statistics of a sender, each as a metric."""

    def __init__(self, tx: uringzc.UdpSender) -> None:
        self.tx = tx

    def collect(self) -> Iterator[Metric]:
        """Their values now. Any thread may read them."""
        for name, value in dataclasses.asdict(self.tx.stats).items():
            if isinstance(value, dict):  # trains by their length, waits by what was waited for
                yield by_label(name, value)
            elif not isinstance(value, str):
                family = GaugeMetricFamily if name in LEVELS else CounterMetricFamily
                yield family(f"uringzc_{name}", HELP[name], value)


def by_label(name: str, values: dict[object, float]) -> Metric:
    """A metric with a value for each of these."""
    metric = CounterMetricFamily(f"uringzc_{name}", HELP[name], labels=["of"])
    for label, value in values.items():
        metric.add_metric([str(label)], value)
    return metric


def main() -> None:
    """Sends, and answers scrapes, until --count is reached, or Ctrl-C."""
    options = parse()
    errors = Counter("uringzc_errors", "errors that the sender reported", ["errno"])
    with uringzc.UdpSender(
        (options.host, options.port),
        on_error=lambda error: errors.labels(errno.errorcode.get(error.errno or 0, "")).inc(),
    ) as tx:
        REGISTRY.register(SenderStats(tx))
        server, _ = start_http_server(options.metrics_port, "127.0.0.1")
        print(f"http://127.0.0.1:{server.server_port}/metrics", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(options.count):
                tx.send(b"message %d" % number)
                time.sleep(0.01)
        server.shutdown()
        server.server_close()


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("host", help="where to send to")
    parser.add_argument("port", type=int, help="a UDP port")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="messages (until Ctrl-C)")
    parser.add_argument("--metrics-port", type=int, default=9100, help="for scrapes (9100); 0: a free one")
    options = parser.parse_args()
    if not 0 < options.port < 65536:
        parser.error(f"port is 1 to 65535, not {options.port}")
    if not 0 <= options.metrics_port < 65536:
        parser.error(f"--metrics-port is 0 to 65535, not {options.metrics_port}")
    return options


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # an address, a port in use
        sys.exit(str(error))
