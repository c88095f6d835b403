"""`app`, for `hypercorn corral.asgi:app`; settings come from CORRAL_* variables and corral.toml."""

from corral import transport
from corral.application import application
from corral.settings import load
from corral.wiring import configure_process, limits

_settings = load()
configure_process(_settings)
transport.install(limits(_settings))
app = application(_settings)
