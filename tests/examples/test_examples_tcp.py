"""The example of TcpSender runs: the file arrives."""

import random
import socket
from pathlib import Path

import pytest
from test_examples import finish, free_port, start, wait_for_port


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100, 5_000_001])
def test_tcp_file_arrives(tmp_path: Path, engine: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(data)
    port = free_port(socket.SOCK_STREAM)
    rx = start("tcp_file.py", "--receive", str(tmp_path / "copy"), "127.0.0.1", port)
    wait_for_port("tcp", port)
    tx = start("tcp_file.py", str(tmp_path / "file"), "127.0.0.1", port, "--engine", engine)
    first, second = finish(tx).splitlines()
    assert first.startswith(f"{size} bytes in ")
    assert second.startswith(f"{engine}: ")
    assert finish(rx) == f"{size} bytes\n"
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.slow
def test_tcp_file_reports_a_receiver_that_closes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64 << 20))
    with socket.create_server(("127.0.0.1", 0)) as server:
        tx = start("tcp_file.py", str(tmp_path / "file"), "127.0.0.1", str(server.getsockname()[1]))
        server.accept()[0].close()
        _, error = tx.communicate(timeout=30)
    assert tx.returncode == 1
    assert "the kernel took" in error
    assert "since the start" in error
    assert "Traceback" not in error
