"""What fast means, measured: `python -m benchmarks`."""
