"""``python -m everprof``: programs that are profiled without a change to them."""

import sys

from everprof._run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
