"""What `uringzc bench`, `send` and `recv` measured, compared and shown: `uringzc diff`, `uringzc report`.

`files` reads what the commands print with --json, and `runs` has the figures of each run. `diff` compares two
files. `page` is a web page, of `parts` that `bench_parts` and `transfer_parts` make, with the plots of
`plots`; `picture` puts those of a bench on one picture, and `theme` has the colours. `numbers` formats.

Extras: msgspec (`cli`) for `files`; jinja2, matplotlib and numpy (`report`) for what is drawn.
"""
