"""Split long sequences into lists of a size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def split_batches(iterable: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of ``size``, the last one perhaps shorter, none empty."""
    items = iter(iterable)
    while batch := list(islice(items, size)):
        yield batch
