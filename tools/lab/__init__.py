"""The engine's own policy against curves of costs, in virtual time: no model, no thread, no server."""
