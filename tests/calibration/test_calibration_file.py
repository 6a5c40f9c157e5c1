"""The file of calibrations: where it is, what is kept, and what of it is never believed."""

import json
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from calibrations import calibration, keep
from processes import run_program

from uringzc import UdpSender, testing
from uringzc.calibration import saved

pytestmark = pytest.mark.engines()
ENTRY = json.loads(json.dumps(calibration().as_dict()))


def content(**changed: Any) -> bytes:
    """A file with one calibration, of which these fields are others."""
    return json.dumps({"kind": "calibration", "calibrations": [ENTRY | changed]}).encode()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/home/u"}, "/home/u/.local/state/uringzc/calibration.json"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "/state"}, "/state/uringzc/calibration.json"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "state"}, "/home/u/.local/state/uringzc/calibration.json"),
        ({"HOME": "/home/u", "URINGZC_CALIBRATION": "/etc/c.json"}, "/etc/c.json"),
        ({"HOME": "/home/u", "URINGZC_CALIBRATION": ""}, ""),
        ({"HOME": "relative"}, ""),
        ({}, ""),
    ],
)
def test_where_it_is(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "URINGZC_CALIBRATION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert saved.path() == expected


def test_what_is_saved_is_read(calibration_file: Path) -> None:
    assert saved.load() == saved.Saved(str(calibration_file))
    one, never = calibration(), calibration(engine="msg_zerocopy", min_zero_copy=None)
    keep(calibration_file, one, never)
    assert saved.load() == saved.Saved(str(calibration_file), (one, never))
    assert [path.name for path in calibration_file.parent.iterdir()] == [calibration_file.name]


def test_a_newer_one_replaces_what_held_for_the_same(calibration_file: Path) -> None:
    old = calibration()
    others = [replace(old, **change) for change in ({"mtu": 9000}, {"kernel": "6.1"}, {"engine": "other"})]
    new = replace(old, min_zero_copy=7000, at="2026-11-23T00:00:00+00:00")
    keep(calibration_file, old, *others)
    keep(calibration_file, new)
    assert set(saved.read(str(calibration_file)).calibrations) == {new, *others}


def test_the_oldest_are_dropped(calibration_file: Path) -> None:
    some = [replace(calibration(), mtu=mtu, at=f"2026-11-22T00:00:{mtu:04}") for mtu in range(1, 80)]
    keep(calibration_file, *some)
    assert saved.read(str(calibration_file)).calibrations == tuple(some[-saved.MOST :])


def test_saving_at_the_same_time_loses_nothing(calibration_file: Path) -> None:
    some = [replace(calibration(), mtu=1000 + number) for number in range(16)]
    threads = [threading.Thread(target=keep, args=(calibration_file, one)) for one in some]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(saved.read(str(calibration_file)).calibrations) == set(some)


def test_forgetting_the_last_one_removes_the_file(calibration_file: Path) -> None:
    keep(calibration_file, calibration(), calibration(engine="msg_zerocopy"))

    def forget(engine: str) -> int:
        return saved.forget(str(calibration_file), lambda one: one.engine == engine, "0.1.0")

    assert [forget("io_uring"), forget("io_uring")] == [1, 0]
    assert [one.engine for one in saved.load().calibrations] == ["msg_zerocopy"]
    assert forget("msg_zerocopy") == 1
    assert not calibration_file.exists()
    assert forget("msg_zerocopy") == 0


BAD = {
    "nothing": b"",
    "text": b"garbage",
    "binary": b"\xff\xfe\x00",
    "another kind": b'{"kind": "bench", "calibrations": []}',
    "a list": b"[]",
    "nested": b"[" * 200_000,
    "huge": b" " * (1 << 20) + content(),
    "an entry that is none": b'{"kind": "calibration", "calibrations": [1]}',
    "no entries": b'{"kind": "calibration"}',
    "too many": json.dumps({"kind": "calibration", "calibrations": [ENTRY] * 65}).encode(),
    "negative": content(min_zero_copy=-1),
    "zero": content(min_zero_copy=0),
    "text for a number": content(min_zero_copy="9000"),
    "too large": content(min_zero_copy=1 << 40),
    "a fraction": content(mtu=1500.5),
    "true": content(mtu=True),
    "escape codes": content(interface="\x1b[31meth0"),
    "long": content(interface="e" * 5000),
    "a key is missing": content().replace(b'"kernel"', b'"colonel"'),
    "sizes": content(sizes=3),
}


def test_the_bad_files_would_be_good_ones(calibration_file: Path) -> None:
    """The control of the next test."""
    calibration_file.write_bytes(content(unknown="of a later version"))
    assert saved.read(str(calibration_file)).calibrations == (calibration(),)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_ignored_and_breaks_nothing(name: str, calibration_file: Path) -> None:
    calibration_file.write_bytes(BAD[name])
    found = saved.load()
    assert (found.calibrations, bool(found.problem)) == ((), True)
    with testing.receiver() as rx, UdpSender(rx.address, engine="copy") as tx:
        tx.send(b"all the same")
        tx.drain(5)
        assert rx.wait(1) == [b"all the same"]
    with pytest.raises(ValueError, match="left as it is"):
        keep(calibration_file, calibration())
    assert calibration_file.read_bytes() == BAD[name]


@testing.requires("send_zc")
def test_explain_says_that_it_is_ignored(calibration_file: Path) -> None:
    calibration_file.write_bytes(b"garbage")
    with UdpSender(("127.0.0.1", 9)) as tx:
        assert f"{calibration_file} is ignored: it is not what uringzc calibrate writes." in tx.explain()


@pytest.mark.parametrize(
    ("mode", "believed"), [(0o644, True), (0o600, True), (0o664, False), (0o646, False), (0o666, False)]
)
def test_who_may_write_to_it_matters(mode: int, believed: bool, calibration_file: Path) -> None:
    calibration_file.write_bytes(content())
    calibration_file.chmod(mode)
    found = saved.read(str(calibration_file))
    assert bool(found.calibrations) == believed
    assert ("others may write" in found.problem) != believed


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_file_of_another_user_is_ignored(calibration_file: Path) -> None:
    calibration_file.write_bytes(content())
    assert saved.read(str(calibration_file)).calibrations
    os.chown(calibration_file, 12345, -1)
    assert saved.read(str(calibration_file)).problem == "it belongs to another user"


def test_what_is_no_regular_file_is_ignored_and_left(calibration_file: Path) -> None:
    os.mkfifo(calibration_file)  # nobody writes: a blocking open would not return
    assert saved.read(str(calibration_file)).problem == "it is no regular file"
    assert saved.read(str(calibration_file.parent)).problem
    assert saved.read("/dev/null").problem == "it is no regular file"
    with pytest.raises(ValueError, match="no regular file"):
        keep(calibration_file, calibration())
    assert stat.S_ISFIFO(calibration_file.stat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_file_that_may_not_be_read_is_ignored() -> None:
    """Where not even its directory may be looked into, nothing is said: there may be none."""
    printed, _ = run_program(
        """
        import os, tempfile
        from pathlib import Path
        from uringzc.calibration import saved
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            file, closed = Path(folder, "file"), Path(folder, "closed")
            file.write_text("{}")
            file.chmod(0o600)
            closed.mkdir(0o700)
            os.seteuid(65534)
            print(saved.read(str(file)).problem)
            print(saved.read(str(closed / "file")))
            os.seteuid(0)
        """
    )
    said, unsaid = printed.splitlines()
    assert said == "Permission denied"
    assert unsaid.endswith("calibrations=(), problem='')")


def test_a_full_disk_leaves_the_file_as_it_was(
    calibration_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(calibration_file, calibration())
    before = calibration_file.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        keep(calibration_file, calibration(min_zero_copy=1))
    assert calibration_file.read_bytes() == before
    assert len(list(calibration_file.parent.iterdir())) == 1
