"""`app`, for `hypercorn app:app`; settings come from CORRAL_* variables and corral.toml."""

from corral.server import application

app = application()
