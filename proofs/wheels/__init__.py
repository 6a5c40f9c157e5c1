"""Wheels for each C library and machine: built here, checked, and tried where they can be."""
