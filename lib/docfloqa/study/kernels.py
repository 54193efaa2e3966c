"""The Jupyter kernel in which runs are made: whether it exists, and what it computes on."""

from __future__ import annotations

import json
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from docfloqa.parameters import shown
from docfloqa.paths import NOTEBOOKS
from docfloqa.settings import Settings
from docfloqa.study.execution import DEFAULT_KERNEL, RETRIES


class SweepError(RuntimeError):
    """A sweep that cannot begin or go on: names the kernel, setting or scheduler, and what is allowed."""


def check_kernel(kernel: str | None) -> str:
    """The name of the kernel; raises `SweepError` when there is none of that name."""
    name = kernel or DEFAULT_KERNEL
    known = KernelSpecManager().get_all_specs()
    if name not in list(known):
        raise SweepError(f"kernel {shown(name)} does not exist; kernels here are {', '.join(sorted(known))}")
    return name


def device_probe(settings: Settings) -> str:
    """The code that asks a kernel; the settings are one literal in it, whatever stands in them."""
    return (
        "import json\n"
        "from docfloqa.model.device import require_device\n"
        "from docfloqa.settings import Settings\n"
        f"print(json.dumps(require_device(Settings.from_json({settings.to_json()!r}))))"
    )


def kernel_device(settings: Settings, kernel: str | None) -> dict[str, Any]:
    """What the kernel really computes on, asked inside it; raises `SweepError` when it cannot serve."""
    name = check_kernel(kernel)
    probe = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(device_probe(settings))])
    place = {"metadata": {"path": NOTEBOOKS}}
    for attempt in range(1 + RETRIES):
        try:
            NotebookClient(probe, kernel_name=name, timeout=300, resources=place).execute()
            break
        except CellExecutionError as error:
            raise SweepError(
                f"kernel {name!r} cannot serve this study: {error.ename}: {error.evalue}"
            ) from None
        except (TimeoutError, RuntimeError) as error:
            # DeadKernelError is one of them.
            if attempt == RETRIES:
                raise SweepError(f"kernel {name!r} does not answer: {error}") from error
    printed = "".join(
        output.get("text", "") for output in probe.cells[0].outputs if output.get("name") == "stdout"
    )
    return json.loads(printed.splitlines()[-1])
