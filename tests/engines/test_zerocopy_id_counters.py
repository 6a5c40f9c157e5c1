"""The process remembers where the zero-copy counters of its sockets stand, from one engine to the next."""

import os
from itertools import count

import pytest
from processes import run_program
from test_zerocopy_ids import Ids

from uringzc._uring import lib

pytestmark = pytest.mark.engines()
REMEMBERED = 4096  # sockets that no engine has


fresh_cookie = count(1 << 60).__next__  # cookies that no socket has, and no other test


def open_ids(cookie: int, start: int | None = None, inode: int = 0) -> Ids | None:
    pointer = lib.uzc_ids_open(cookie, inode)
    return Ids(start, pointer) if pointer else None


def test_the_next_engine_guesses_where_the_last_one_ended() -> None:
    cookie = fresh_cookie()
    for start in range(0, 9, 3):
        ids = open_ids(cookie)
        assert ids
        with ids:
            assert ids.next is None  # others may have sent since
            ids.guess()
            assert ids.next == start
            ids.own(1, 2, 3)
            assert ids.report(start, start + 2) == [1, 2, 3]


def test_a_sockets_ids_have_one_engine_at_a_time() -> None:
    cookie = fresh_cookie()
    ids = open_ids(cookie, 0)
    assert ids
    with ids:
        assert open_ids(cookie) is None
        other = open_ids(fresh_cookie(), 0)
        assert other
        with other:
            assert other.next == 0
    ids = open_ids(cookie)
    assert ids
    with ids:
        assert ids.next is None


def test_a_verified_counter_is_the_next_engines_guess() -> None:
    cookie = fresh_cookie()
    for _ in range(2):
        ids = open_ids(cookie)
        assert ids
        with ids:
            assert ids.next is None
    ids = open_ids(cookie, 17)
    assert ids
    with ids:
        assert ids.next == 17
    ids = open_ids(cookie)
    assert ids
    with ids:
        ids.guess()
        assert ids.next == 17


@pytest.mark.parametrize("why", ["outstanding", "never given"])
def test_a_counter_with_outstanding_ids_is_not_handed_on(why: str) -> None:
    cookie = fresh_cookie()
    ids = open_ids(cookie, 0)
    assert ids
    with ids:
        ids.own(1)
        if why == "never given":
            ids.report(0, 5)
            assert ids.take_all() == [1]
    assert open_ids(cookie) is None


def test_an_invalidated_counter_is_not_the_next_engines_guess() -> None:
    cookie = fresh_cookie()
    ids = open_ids(cookie, 5)
    assert ids
    with ids:
        ids.doubt()
    ids = open_ids(cookie)
    assert ids
    with ids:
        ids.guess()
        assert ids.next == 0


def test_sockets_with_the_same_cookie_differ_by_their_inode() -> None:
    """Before Linux 5.10 there may be."""
    cookie = fresh_cookie()
    first, second = open_ids(cookie, 0, inode=1), open_ids(cookie, 0, inode=2)
    assert first
    assert second
    with first, second:
        first.own(1, 2)
        assert (first.next, second.next) == (2, 0)
        assert lib.uzc_ids_taken(cookie, 1)
        assert not lib.uzc_ids_taken(cookie, 3)
        assert first.report(0, 1) == [1, 2]


MANY = f"""
from test_zerocopy_id_counters import fresh_cookie, open_ids
cookies = [fresh_cookie() for _ in range(3 * {REMEMBERED})]
held = [open_ids(cookie, 0) for cookie in cookies]
assert all(held)  # as many as there are
assert all(open_ids(cookie) is None for cookie in cookies)
kept = held[::100]
for ids in held:
    ids.own(1)
    if ids not in kept:
        ids.report(0, 0)
        with ids:
            pass
assert all(open_ids(cookie) is None for cookie in cookies[::100])  # what is taken is never forgotten
known = 0
for i, cookie in enumerate(cookies):
    if i % 100:
        with open_ids(cookie) as ids:
            ids.guess()
            known += ids.next == 1
            ids.doubt()  # and is not remembered
assert known == {REMEMBERED}
for ids in kept:
    with ids:
        assert ids.report(0, 0) == [1]
"""


@pytest.mark.slow
def test_a_limited_number_of_counters_is_remembered() -> None:
    run_program(MANY)  # in a process of its own: these counters stay


FORKED = """
import os
from test_zerocopy_id_counters import fresh_cookie, open_ids
cookies = [fresh_cookie() for _ in range(3)]
open_, closed, outstanding = (open_ids(cookie, 0) for cookie in cookies)
with closed:
    closed.own(1)
    closed.report(0, 0)
outstanding.own(1)
child = os.fork()
if not child:
    with open_, outstanding:  # frees them
        pass
    assert [open_ids(cookie) for cookie in cookies] == [None] * 3  # the parent may be sending
    mine = open_ids(fresh_cookie(), 0)
    assert mine and mine.next == 0
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
open_.own(1)
assert open_.report(0, 0) == [1]
with open_ids(cookies[1]) as again:
    again.guess()
    assert again.next == 1
with open_, outstanding:  # frees them
    pass
"""


def test_a_forked_child_gets_no_counter_of_the_parent() -> None:
    assert hasattr(os, "fork")
    run_program(FORKED)
