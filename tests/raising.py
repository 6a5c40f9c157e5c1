"""Errors that a test expects."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def raises_errno(number: int, match: str) -> Iterator[None]:
    """The block raises an OSError with that errno, and a text that matches."""
    with pytest.raises(OSError, match=match) as caught:
        yield
    assert caught.value.errno == number
