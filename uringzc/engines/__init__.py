"""How requests reach the kernel, and how their memory comes back."""
