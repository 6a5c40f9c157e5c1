"""Random programs over every public class: ``make fuzz``.

The parent: ``search`` makes ``programs`` from seeds, out of the ``faces`` of the library and ``values`` for
their parameters, gives them to ``children``, and shortens those that fail. ``coverage`` is its table.

A ``child`` plays them, one after the other (``player``): it makes arguments (``things``, ``memory``), makes
calls in several ``ways`` and ``tasks``, and lets the ``world`` change in between. ``effects`` keeps account
of what calls have ``sent`` and ``returned``, by ``requests``; the ``ledger`` compares that with what has come
over the ``network``, and ``leftovers`` looks for what is left.
"""
