"""The tests that each kernel runs, by what they show; emulated, Python is 13 times slower."""

TESTS = {
    "programs of README.md": ["tests/docs/test_pages_code.py"],
    "what the probe finds, sends find; trains": ["tests/kernel/test_features.py"],
    "engines' fallbacks": [
        "tests/doctor/test_probe.py::test_where_nothing_is_refused_io_uring_is_picked",
        "tests/doctor/test_probe.py::test_a_seccomp_filter_refuses_rings",
        "tests/doctor/test_probe.py::test_a_seccomp_filter_refuses_to_enter_rings",
        "tests/doctor/test_probe.py::test_a_missing_feature_names_the_kernel_that_has_it",
        "tests/doctor/test_probe.py::test_the_environment_variable_chooses_the_engine",
        "tests/doctor/test_probe.py::test_optmem_max_limits_what_is_in_flight",
    ],
    "slot rules": ["tests/slots"],
    "UdpSender": [
        "tests/senders/test_udp_api.py::test_every_call_returns_what_it_took",
        "tests/senders/test_udp_api.py::test_empty_datagrams_arrive",
        "tests/senders/test_udp_api.py::test_each_destination_gets_its_datagrams_in_order",
        "tests/senders/test_udp_api.py::test_every_way_to_give_a_destination",
        "tests/senders/test_udp_api.py::test_broadcast_needs_so_broadcast",
        "tests/senders/test_udp_api.py::test_multicast_options_apply",
        "tests/senders/test_udp_directly.py",
    ],
    "TcpSender": [
        "tests/senders/test_tcp.py::test_everything_arrives_in_order",
        "tests/senders/test_tcp.py::test_data_arrives_in_debug_mode",
        "tests/senders/test_tcp.py::test_small_neighbours_are_one_system_call",
        "tests/senders/test_tcp.py::test_large_immutable_data_is_sent_zero_copy",
        "tests/senders/test_tcp.py::test_data_is_copied_at_once_where_the_kernel_copies",
    ],
    "memory on the wire, with its control": ["tests/memory/test_wire.py"],
    "the kernel's answers": ["tests/kernel/test_kernel_answers.py", "tests/kernel/test_zerocopy_selftest.py"],
    "MSG_ZEROCOPY": ["tests/engines/test_msg_zerocopy.py"],
    "frames": [
        "tests/engines/test_af_xdp.py",
        "tests/senders/test_udp_frames.py",
    ],
}
#: pytest's -k: the programs of no other page; what is slow, and random programs, which are about no kernel
KEYWORDS = (
    "(README or not test_pages_code) and not 8388608 and not model and not three_requests"
    " and not needs_cap_net_raw and not memory_is_locked and not without_af_xdp"
)
#: of tests/memory/test_wire.py, of each kind, on each engine
DATAGRAMS = 600
