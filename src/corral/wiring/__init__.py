"""Settings to a running service: the one place that knows how the layers are put together."""
