"""make soak: mixed use of every sender and engine, with random faults; nothing grows, nothing is lost.

The order of the files, each of which may import those before it:

- ``ledger.py``: datagrams that are recognised wherever they arrive, and what became of each.
- ``faults.py``: what happens to the network meanwhile, in a thread.
- ``users.py``: what every user of the library here does; ``engines.py`` (Scheduler, Ring), ``senders.py``
  (UdpSender), ``streams.py`` (TcpSender), ``loops.py`` (asyncio): one class for each.
- ``program.py``: the users of all engines in turn, as the seed decides, and what happens to the process.
- ``measures.py``: what this process has, a line in a file for each; what has grown. ``picture.py`` draws it.
- ``wraps.py``: counters of 32 bits, driven past their end (``--limits``).
"""
