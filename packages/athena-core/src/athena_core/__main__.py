"""``python -m athena_core`` is the command ``athena``."""

import sys

from athena_core._cli import main

sys.exit(main())
