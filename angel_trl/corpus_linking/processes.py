"""What the processes of a run do together; alone, a process is all of them."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

__all__ = ["gathered", "share", "together"]

T = TypeVar("T")


def together(work: Callable[[], T]) -> T:
    """Do something in every process, and fail in all if it fails in one: none waits for another that is gone.

    Raises:
        ValueError: If `work` raises it, or any of its errors does in another process.
        OSError: If `work` raises it.
    """
    error: ValueError | OSError | None = None
    try:
        result = work()
    except (ValueError, OSError) as caught:
        error = caught
    errors = gathered([] if error is None else [str(error)])
    if error is not None:
        raise error
    if errors:
        raise ValueError(errors[0])
    return result


def share(items: Any, state: PartialState) -> Any:
    """Return every n-th of some items, from this process's number on."""
    return items[state.process_index :: state.num_processes]


def gathered(items: list[Any]) -> list[Any]:
    """Return the items of all processes."""
    return list(gather_object(items))
