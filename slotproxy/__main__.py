"""`python -m slotproxy`."""

import sys

from slotproxy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
