"""What takes longer than tests may: commands, ``python -m proofs.NAME``, and targets of the Makefile.

`docs/proof.md` says what each proves, and has a table of what they said: `page.py` writes its rows.
"""
