"""`python -m kdplan`."""

import sys

from kdplan.cli import main

sys.exit(main())
