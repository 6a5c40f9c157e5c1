"""How fast the library is: `make bench`, or `python -m benchmarks`.

To add a case, add a `bench.compare(...)` to a topic in cases/; to add a topic, a function in cases/ with the
`topic` decorator, and its name in cases/__init__.py. Its docstring becomes the section of RESULTS.md, and
says what each opponent is. A program to compare goes into programs/, as a function or method that returns a
Contender. A case for the picture: HEADLINES in chart.py.

Each file here imports only those above it:

    pairs.py       programs run in rounds: samples, ratios, the interval of the median
    results.py     what is kept in results.json, and which targets are met
    paths.py       networks with a receiver
    programs/      what is measured: the library's calls, Python's own, and reference.c
    bench.py       what a case works with: networks, sockets, senders, `compare`
    cases/         what is compared with what, topic by topic
    report.py      RESULTS.md
    chart.py       the picture of the headline cases
    plots.py       plots/: that and others as SVG, for light and for dark pages
    __main__.py    the command
"""
