"""The processes that make one run together, as torchrun starts them; a process alone is the first of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import distributed


def rank_and_size() -> tuple[int, int]:
    """This process's place among those that make the run, from 0, and how many they are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gathered(content: Any) -> list[Any]:
    """What every process gives, in their order; all of them must call it."""
    _, size = rank_and_size()
    if size == 1:
        return [content]
    contents = [None] * size
    distributed.all_gather_object(contents, content)
    return contents


def agreed(find: Callable[[], Any]) -> Any:
    """What the first process finds, for all of them; the others wait for it."""
    rank, size = rank_and_size()
    found = [find() if rank == 0 else None]
    if size > 1:
        distributed.broadcast_object_list(found)
    return found[0]
