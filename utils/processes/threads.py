"""Work that goes on in a thread."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def one_ahead(function: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """Map as `map` does, but while the caller is busy with one result, the next is made in a thread.

    The items are taken by the caller's own thread. Errors are raised in their turn.
    """
    with ThreadPoolExecutor(1) as thread:
        last: Future[R] | None = None
        for item in items:
            now = thread.submit(function, item)
            if last is not None:
                yield last.result()
            last = now
        if last is not None:
            yield last.result()
