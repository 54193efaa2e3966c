"""The playground as a web page that Voilà serves: on this machine only, behind a token, without code."""

import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config
from voila.app import Voila

from docfloqa.data.images import LARGEST_UPLOAD
from docfloqa.files import NOTEBOOKS
from docfloqa.parameters import check_study_name
from docfloqa.study.kernels import ENCRYPTION

NOTEBOOK = "06_playground.ipynb"
# Cells for readers of a report, which stand for the widgets there.
STATIC = "static"
TEMPLATE = Path(__file__).parent / "templates" / "demo"
TITLE = "Ask a document"
IDLE_SECONDS = 30 * 60
# The next visitor's kernel is made when the models of this one have answered.
SECONDS_BEFORE_NEXT = 15.0
# Whatever a page might want to fetch from elsewhere, the browser does not fetch.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'; form-action 'self'"
)


class Demo(Voila):
    """Voilà with this project's template, which links no style sheets of other sites as Voilà's own does."""

    def setup_template_dirs(self) -> None:
        """Look for templates in this project's folder first."""
        super().setup_template_dirs()
        self.template_paths.insert(0, str(TEMPLATE))


def demo_notebook(study: str) -> NotebookNode:
    """The playground's notebook for a study, its prose behind one line, without what stands for widgets in a report."""
    check_study_name(study)
    notebook = parameterize_notebook(load_notebook_node(str(NOTEBOOKS / NOTEBOOK)), {"study": study})
    shown = [cell for cell in notebook.cells if STATIC not in cell.metadata.get("tags", [])]
    prose = [cell.source for cell in shown if cell.cell_type == "markdown"]
    # The title of the notebook stands in its first line.
    prose[0] = prose[0].partition("\n")[2]
    explained = "\n\n".join(("<details><summary>How this works</summary>", *prose, "</details>"))
    code = [cell for cell in shown if cell.cell_type == "code"]
    notebook.cells = [new_markdown_cell(f"# {TITLE}"), *code, new_markdown_cell(explained)]
    # What the window is called.
    notebook.metadata["title"] = f"{TITLE} ({study})"
    return notebook


def demo_config(port: int) -> Config:
    """Loopback with a token; no code, files or tracebacks; what is larger than an upload may be is refused.

    Every visitor has a kernel of their own, which ends when nothing was done with it for half an hour.
    """
    served = {"ip": "127.0.0.1", "port": port, "auto_token": True, "open_browser": False}
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
    # A little more than a file, so that one that is just too large is told so.
    served["tornado_settings"] = {"headers": headers, "websocket_max_message_size": LARGEST_UPLOAD + 2 * 2**20}
    shown = {"strip_sources": True, "show_tracebacks": False, "file_allowlist": [], "allow_template_override": "NO"}
    shown |= {"preheat_kernel": True, "default_pool_size": 1}
    heated = {"fill_delay": SECONDS_BEFORE_NEXT}
    kernels = {"cull_idle_timeout": IDLE_SECONDS, "cull_interval": 60, "cull_connected": True}
    kernels["transport_encryption"] = ENCRYPTION
    return Config(Voila=served, VoilaConfiguration=shown, MappingKernelManager=kernels, VoilaKernelManager=heated)


def serve(study: str, port: int = 8866) -> None:
    """Serve the playground of a study until interrupted; the address with its token is printed."""
    with tempfile.TemporaryDirectory() as folder:
        # A folder of its own: Voilà serves what lies beside a notebook.
        path = Path(folder) / NOTEBOOK
        nbformat.write(demo_notebook(study), path)
        Demo.launch_instance([str(path)], config=demo_config(port))
