"""Many readers of one server at once: a crowd in a process of its own, and readers that stall."""
