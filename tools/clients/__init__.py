"""One client: what it asks, how it behaves, what it saw."""
