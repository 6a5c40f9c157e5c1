"""Where stock transports are known to differ from what the tests of this folder say, and why.

A test that is named here has to fail on that loop, so the table stays true. What hangs does not run.
A name may be that of one case: "test_name[case]".
"""

import sys
from collections.abc import Iterator

import pytest

NO_EMPTY = "an empty datagram is not sent"
NO_RESUME = "a paused protocol is not resumed by abort (cpython#156698)"
CANCELLED = "datagrams that abort drops are reported to the loop's exception handler"
MAY_BE_CANCELLED = f"{CANCELLED}, if some wait at that moment"
OWN_ERRORS = "errors of its own, in other words or of other types"

ASYNCIO = {
    "test_a_protocol_factory_that_raises": "the socket is left to the garbage collector",
    "test_without_a_peer_it_is_dropped_then": "AttributeError, once its socket is gone",
    "test_close_sends_what_waits_first": "what is sent after close waits with the others, and leaves",
    "test_abort_drops_what_waits": "the write buffer keeps its size",
    "test_abort_resumes_too": NO_RESUME,
    "test_a_transport_can_be_ended_in_these_methods[resume_writing-close]": "connection_lost is called twice",
    "test_a_transport_can_be_ended_in_these_methods[resume_writing-abort]": "connection_lost is called twice",
}
if sys.version_info < (3, 13):
    ASYNCIO |= {
        "test_it_is_a_datagram_transport": "only since 3.13",
        "test_an_empty_datagram_is_a_datagram": NO_EMPTY,
        "test_an_empty_datagram_can_be_alone": NO_EMPTY,
    }

UVLOOP = {
    "test_it_is_a_datagram_transport": "a class of its own",
    "test_an_address_is_a_pair": OWN_ERRORS,
    "test_a_port_that_does_not_exist": "taken modulo 65536",
    "test_addresses_of_different_families": OWN_ERRORS,
    "test_an_address_that_is_not_of_this_machine": OWN_ERRORS,
    "test_a_port_in_use": OWN_ERRORS,
    "test_reuse_port_shares_one": OWN_ERRORS,
    "test_the_first_error_is_raised_where_no_address_works": OWN_ERRORS,
    "test_a_remote_that_may_be_a_broadcast_is_not_connected": "it is connected",
    "test_the_first_address_that_works_is_used[2]": "the family of the first address is the only one",
    "test_paths_are_served": "refuses AF_UNIX",
    "test_a_stale_path_is_replaced": "refuses AF_UNIX",
    "test_a_path_is_a_str": "refuses AF_UNIX",
    "test_a_transport_that_is_closed_in_connection_made_reads_nothing": "connection_made is called at once",
    "test_a_transport_that_is_paused_in_connection_made_reads_when_it_is_resumed": "refused",
    "test_a_protocol_factory_that_raises": "the socket is left to the garbage collector",
    "test_a_protocol_factory_that_raises_leaves_the_socket_of_the_program": "closes it",
    "test_connection_made_that_raises_is_reported_and_the_endpoint_works": "create_datagram_endpoint waits",
    "test_addresses_are_known_after_it_was_closed": "asks the closed socket",
    "test_limits_of_the_write_buffer[as it was made]": "the low limit is 16 bytes",
    "test_limits_that_make_no_sense": "the low limit is 16 bytes",
    "test_other_types_are_refused": OWN_ERRORS,
    "test_an_empty_datagram_is_a_datagram": NO_EMPTY,
    "test_an_empty_datagram_can_be_alone": NO_EMPTY,
    "test_the_empty_host_name_is_this_machine": OWN_ERRORS,
    "test_an_address_of_another_family_is_an_error_of_its_own": OWN_ERRORS,
    "test_what_is_no_address_is_reported[port of another type]": "taken for a number",
    "test_what_is_no_address_is_reported[port that does not exist]": "taken modulo 65536",
    "test_what_is_no_address_is_reported[host with a NUL]": "taken to end there",
    "test_data_of_another_type_is_refused_after_close_too": "dropped",
    "test_without_a_peer_it_is_sent_until_connection_lost": "dropped",
    "test_an_error_after_close_is_reported_too": "dropped",
    "test_methods_of_a_closed_transport[is_reading]": "RuntimeError",
    "test_methods_of_a_closed_transport[pause_reading]": "RuntimeError",
    "test_methods_of_a_closed_transport[resume_reading]": "RuntimeError",
    "test_connection_lost_that_raises_is_reported_and_the_socket_closed": "the socket stays open",
    "test_a_host_name_is_resolved_by_sendto": OWN_ERRORS,
    "test_a_buffer_can_be_changed_while_the_datagram_waits": "the program's memory is sent later",
    "test_close_sends_what_waits_first": "what is sent after close waits with the others, and leaves",
    "test_abort_drops_what_waits": CANCELLED,
    "test_abort_resumes_too": NO_RESUME,
    "test_abort_of_a_transport_that_is_closing": CANCELLED,
    "test_a_transport_can_be_ended_in_these_methods[pause_writing-abort]": CANCELLED,
    "test_receiving_goes_on_while_it_can_not_send": MAY_BE_CANCELLED,
    "test_interleaved_to_sixteen_peers": "the program's memory is sent later",
    "test_pause_reading_and_resume_reading": "neither exists",
    "test_pause_reading_holds_from_the_call_on": "pause_reading does not exist",
    "test_resume_reading_in_the_turn_of_pause_reading": "neither exists",
    "test_a_transport_that_is_closed_while_paused": "pause_reading does not exist",
    "test_the_loop_has_its_turn_while_much_is_received": "pause_reading does not exist",
}

OVER_UVLOOP = {name: reason for name, reason in UVLOOP.items() if reason == "refuses AF_UNIX"}

#: these do not end there, or not always: in C code, where pytest's timeout cannot end them
HANG = {
    "uvloop": {
        "test_a_cancelled_set_up_closes_the_socket": "closing the loop hangs",
        "test_repr_says_in_which_state_it_is": "no word for closing; closing the loop may hang",
    }
}

#: stock transports change with the version of CPython: they are the control in that of the tables
HAS_CONTROLS = (3, 11, 7) <= sys.version_info < (3, 12)  # earlier ones of 3.11 cannot pause reading


def known_difference(kind: str, test: str, case: str) -> Iterator[pytest.MarkDecorator]:
    """The marks that the test gets on that loop."""
    hangs: dict[str, str] = HANG.get(kind, {})
    differs = {"asyncio": ASYNCIO, "uvloop": UVLOOP, "uringzc-uvloop": OVER_UVLOOP}.get(kind, {})
    for name in (test, f"{test}[{case}]"):
        if name in hangs:
            yield pytest.mark.xfail(reason=hangs[name], run=False)
        elif name in differs:
            yield pytest.mark.xfail(reason=differs[name], strict=differs[name] != MAY_BE_CANCELLED)
            yield pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
