"""What `uringzc calibrate` has saved: from how many bytes on zero-copy pays by each interface."""
