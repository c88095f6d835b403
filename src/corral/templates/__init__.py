"""Chat templates: what a model's own Jinja source makes of a conversation. Pure but for the date."""
