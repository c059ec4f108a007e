"""``python -m haste_compiler.cli`` is ``haste``."""

import sys

from haste_compiler.cli.main import main

sys.exit(main())
