"""A button that takes a file, which tells of it before the file travels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
from traitlets import Instance, Int, Unicode

from docfloqa.data.images import ALLOWED, KINDS, LARGEST_UPLOAD


# The same file chosen again is another one, so that it is told.
@dataclass(frozen=True, eq=False)
class File:
    """A file that was chosen in the browser; `content` is None until it has arrived, which it may never do."""

    name: str
    size: int
    content: bytes | None


class Upload(anywidget.AnyWidget):
    """A button for a PNG, JPEG or PDF; `file` is told when chosen and when here; none above `largest` bytes is sent."""

    _esm = Path(__file__).parent / "templates" / "upload.js"
    description = Unicode("upload a scan").tag(sync=True)
    tooltip = Unicode(ALLOWED).tag(sync=True)
    accept = Unicode(KINDS).tag(sync=True)
    largest = Int(LARGEST_UPLOAD).tag(sync=True)
    file = Instance(File, allow_none=True)

    def __init__(self, **traits: Any):
        super().__init__(**traits)
        self.on_msg(self.receive)

    def receive(self, _: Any, told: dict[str, Any], buffers: list[memoryview]) -> None:
        """What the browser says of a file: its name and size, then the same with its content."""
        content = bytes(buffers[0]) if told["arrived"] else None
        self.file = File(str(told["name"]), int(told["size"]), content)
