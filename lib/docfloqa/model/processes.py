"""Processes that share one run, as torchrun begins them; others, that must not wait for such; and their common end."""

import os
import re
import threading
from multiprocessing import parent_process
from typing import TYPE_CHECKING

from docfloqa.exceptions import StudyError

if TYPE_CHECKING:
    from accelerate import PartialState

# What torchrun tells the processes that it begins, and what accelerate reads of MPI's launchers as well.
TOLD = re.compile(
    r"RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT"
    r"|(PMI|OMPI_COMM_WORLD|MV2_COMM_WORLD)_(LOCAL_)?(RANK|SIZE)"
)


def compute_alone() -> None:
    """Forget what this process was told of others that share a run with it, and so all that it begins."""
    # A shell inside a launcher hands that on; a kernel would wait for processes that nobody begins.
    for name in filter(TOLD.fullmatch, [*os.environ]):
        del os.environ[name]


def join_processes(cpu: bool) -> "PartialState":
    """This process's state among those that share a run, for which it says it waits; `StudyError` if they fail."""
    from accelerate import PartialState

    told = [f"{name}={value}" for name, value in sorted(os.environ.items()) if TOLD.fullmatch(name)]
    sizes = [value for name, value in os.environ.items() if TOLD.fullmatch(name) and name.endswith("SIZE")]
    if told and max(sizes, default="") != "1":
        count = f"{os.environ.get('WORLD_SIZE') or max(sizes, default='several')} processes"
        print(f"waiting for the {count} that share this run, as {', '.join(told)} say; unset them to make it in one")
    try:
        return PartialState(cpu=cpu)
    except (ValueError, RuntimeError) as error:
        if not told:
            raise
        raise StudyError(
            f"the processes that share this run, as {', '.join(told)} say, did not come together ({error}); begin all "
            "of them with torchrun, or unset these variables to make the run in one"
        ) from error


def end_with_parent() -> None:
    """Let this process end as soon as the one that began it is gone, however that ended."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
