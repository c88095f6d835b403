"""The figures of the server and its engine: `python tools/bench.py --help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python has put tools/ on the path, and its packages are imported as `tools.…`, as the tests do.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tools.commands.bench import main

    sys.exit(main())
