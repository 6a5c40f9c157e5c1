"""`make kernels`: Debian's kernels, booted in an emulator, and what works on each.

`packages.py` fetches kernels and programs with apt, `image.py` makes the root file systems that are booted,
`machine.py` runs one and reads what it reports, `selection.py` has the tests, `guest/` what runs inside, and
`tables.py` what is printed and written to the pages.
"""
