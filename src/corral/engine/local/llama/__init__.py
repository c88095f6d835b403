"""The only part of corral that knows llama.cpp.

OpenMP reads its settings once, when llama.cpp's library is loaded, so they are made here, before any
module of this package imports it. By default an OpenMP helper thread spins for milliseconds after every
step, waiting for the next, on a core that the event loop and the client need; and where threads outnumber
cores, a spinning one keeps the one it waits for from running. GOMP_SPINCOUNT=1000 spins for microseconds,
enough to bridge the gaps between the operations of one step. SmolLM2-135M on 2 cores, ms per decode step:

    spins               1 sequence   16 sequences   CPU spun after a step
    default                    5.6           36.2                  8.7 ms
    1000                       5.6           32.0                  0
    0 (or passive)            18.9           47.3                  0

With another process busy on both cores the default was 12 times slower than 1000. Whoever sets one of the
two variables knows better, and is left alone. (Figures: `bench.py steps`.)
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# A failed assertion of ggml starts helpers that print backtraces, and that may wait for each other for ever.
# Without them the process ends at once, with one line.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
