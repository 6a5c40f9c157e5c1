"""What works on this machine, and on the way to a host."""
