"""The tests that each kernel runs, by what they show; emulated, Python is 13 times slower."""

TESTS = {
    "what the probe finds, sends find": ["tests/kernel/test_features.py"],
    "memory on the wire, with its control": ["tests/memory/test_wire.py"],
    "slot rules": ["tests/slots/test_slot_api.py"],
    "programs of README.md": ["tests/docs/test_pages_code.py"],
    "the kernel's answers": ["tests/kernel/test_kernel_answers.py", "tests/kernel/test_zerocopy_selftest.py"],
    "MSG_ZEROCOPY": ["tests/engines/test_msg_zerocopy.py"],
    "frames": [
        "tests/engines/test_af_xdp.py",
        "tests/frames/test_frames_slots.py",
        "tests/frames/test_frames_headers.py",
        "tests/senders/test_udp_frames.py",
    ],
    "senders": ["tests/senders/test_udp_directly.py"],
}
