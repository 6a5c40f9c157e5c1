"""The suites: which versions, which of their tests, what those need, and what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

#: the tests of CPython itself are those of the interpreter's own package `test`
CPYTHON = "CPython"
_BASE_EVENTS = "test_asyncio/test_base_events.py::BaseEventLoopWithSelectorTests"


@dataclass(frozen=True, eq=False)
class Suite:
    """Tests that know nothing of uringzc."""

    name: str  # of the package
    version: str
    tests: tuple[str, ...]  # files and folders of its sdist, or of CPython's `test`
    about: str = ""  # what it does with datagrams, one line
    #: the last version for an older interpreter
    older: Mapping[tuple[int, int], str] = field(default_factory=lambda: MappingProxyType({}))
    extras: str = ""  # of the package, as "[trio]"
    needs: tuple[str, ...] = ()  # packages that the tests import besides
    plugins: tuple[str, ...] = ()  # of pytest; no others are loaded
    options: tuple[str, ...] = ()  # of pytest
    with_uvloop: tuple[str, ...] = ()  # more of them
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    helpers: str = ""  # a folder here: modules of the tests that the sdist lacks
    left_out: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # what: why
    #: tests of a stock loop's inside, by node id, which no other loop can pass: why
    cannot: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cannot_with: Mapping[tuple[int, int], Mapping[str, str]] = field(
        default_factory=lambda: MappingProxyType({})  # the same for one version of CPython
    )
    limit: float = 600  # seconds for the whole

    def deselected(self, python: tuple[int, int]) -> list[str]:
        """The tests that this interpreter is not to run."""
        return [*self.cannot, *self.cannot_with.get(python, ())]

    def version_for(self, python: tuple[int, int]) -> str:
        """The version to test on this interpreter."""
        return self.older.get(python, self.version)


SUITES = (
    Suite(
        name=CPYTHON,
        version="",
        about="the tests of asyncio's own loops, of which each makes one",
        tests=(
            "test_asyncio/test_events.py",
            "test_asyncio/test_base_events.py",
            "test_asyncio/test_sock_lowlevel.py",
            "test_asyncio/test_sendfile.py",
        ),
        with_uvloop=("-k", "datagram"),
        left_out={
            "test_asyncio/test_selector_events.py": "calls _SelectorDatagramTransport itself, with mocks",
            "with uvloop, what is not about datagrams": "needs what only asyncio's loops have, or hangs",
        },
        cannot={
            f"{_BASE_EVENTS}::test_create_datagram_endpoint_{name}": "asyncio.base_events.socket is a mock"
            for name in ("cant_bind", "ip_addr", "nosoreuseport", "setblk_err", "socket_err")
        },
        cannot_with={
            (3, 10): {
                f"{_BASE_EVENTS}::test_create_datagram_endpoint_addr_error": (
                    "an assert statement, which 3.11 made a TypeError, as ours"
                )
            }
        },
    ),
    Suite(
        name="aioquic",
        version="1.7.2",
        older={(3, 10): "1.3.0"},
        about="QUIC clients and servers, with loss and retries",
        tests=("tests/test_asyncio.py",),
        left_out={"tests/test_*.py": "the others use no event loop"},
    ),
    Suite(
        name="aioice",
        version="0.13.0",
        older={(3, 10): "0.10.2"},
        about="ICE, STUN, TURN and multicast DNS",
        tests=("tests",),
        cannot={
            "tests/test_ice.py::IceConnectionTest::test_gather_candidates_oserror": (
                "BaseEventLoop.create_datagram_endpoint is a mock"
            )
        },
    ),
    Suite(
        name="aiocoap",
        version="0.4.17",
        about="CoAP: clients and servers of its transports simple6 and simplesocketserver",
        tests=(
            *("tests/test_blockwise.py", "tests/test_client.py", "tests/test_noncoap_client.py"),
            *("tests/test_observe.py", "tests/test_protocol.py", "tests/test_proxy.py"),
            *("tests/test_reverseproxy.py", "tests/test_server.py", "tests/test_uri_path_abbrev.py"),
        ),
        helpers="aiocoap_tests",
        environ={
            "AIOCOAP_CLIENT_TRANSPORT": "simple6",
            "AIOCOAP_SERVER_TRANSPORT": "simple6:simplesocketserver",
        },
        left_out={
            "its transport udp6": "reads and writes the socket itself",
            "other files of tests": "programs, OSCORE, DTLS, TCP and TLS",
        },
    ),
    Suite(
        name="anyio",
        version="4.16.0",
        about="UDP sockets, connected or not, also AF_UNIX",
        tests=("tests/test_sockets.py", "tests/test_eventloop.py", "tests/test_signals.py", "tests/streams"),
        needs=("pytest-mock", "trustme", "truststore", "blockbuster", "psutil"),
        plugins=("anyio", "pytest_mock"),
        options=("-k", "not trio and not uvloop"),
        with_uvloop=("-k", "not trio and not uvloop and not eager"),
        left_out={
            "other files of tests": "tasks, threads, files and plugins of pytest, no sockets",
        },
    ),
    Suite(
        name="hypercorn",
        version="0.18.0",
        extras="[h3]",
        about="HTTP servers",
        tests=("tests/asyncio", "tests/e2e"),
        needs=("pytest-asyncio", "pytest-trio", "trio", "httpx"),
        plugins=("pytest_asyncio.plugin", "pytest_trio.plugin"),
        options=("-k", "not trio", "-o", "asyncio_default_fixture_loop_scope=function"),
    ),
    Suite(
        name="uvloop",
        version="0.23.0",
        about="uvloop's own tests of UDP",
        tests=("tests/test_udp.py",),
        cannot={
            "tests/test_udp.py::Test_UV_UDP::test_udp_sendto_dns": (
                "uvloop's sendto refuses host names; asyncio's and ours resolve them"
            )
        },
    ),
)
