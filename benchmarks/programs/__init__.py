"""The programs that are measured: ways to send with the library, and what it is compared with."""
