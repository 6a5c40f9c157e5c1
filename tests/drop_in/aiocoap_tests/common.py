"""In place of the module tests.common, which the sdist of aiocoap lacks: what the machine offers."""

import os
import sys
from unittest import TestCase

PYTHON_PREFIX = [sys.executable]
loopbackname_v6 = "ip6-localhost"  # see started() of runs.py
loopbackname_v46 = "localhost"
using_simple6 = "simple6" in os.environ["AIOCOAP_CLIENT_TRANSPORT"]
tcp_disabled = "tcp" not in os.environ["AIOCOAP_SERVER_TRANSPORT"]
ws_disabled = "ws" not in os.environ["AIOCOAP_SERVER_TRANSPORT"]
in_woodpecker = False


class CapturingSubprocess:
    """Of tests that are left out."""


def run_fixture_as_standalone_server(_fixture: type[TestCase]) -> None:
    """Never called under pytest."""
    raise NotImplementedError
