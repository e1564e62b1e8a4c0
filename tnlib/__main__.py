"""`python -m tnlib` is the command `tnlib`."""

import sys

from tnlib.study.cli import main

sys.exit(main())
