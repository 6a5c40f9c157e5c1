"""What works on this machine, and on the route to a host."""
