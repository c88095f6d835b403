"""The command lines of bench.py, loadtest.py and soak.py."""
