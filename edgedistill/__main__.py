"""`python -m edgedistill`: the command line, where the program is not on the path."""

import sys

from pipeline.cli import main

sys.exit(main())
