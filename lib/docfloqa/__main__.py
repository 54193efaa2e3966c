"""`python -m docfloqa`."""

import sys

from docfloqa.cli import main

if __name__ == "__main__":
    sys.exit(main())
