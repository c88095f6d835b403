"""`app`, for `hypercorn corral.asgi:app`; settings come from CORRAL_* variables and corral.toml."""

from corral import transport
from corral.application import application
from corral.settings import load
from corral.wiring.options import limits
from corral.wiring.process import configure_process

_settings = load()
configure_process(_settings)
transport.install(limits(_settings))
app = application(_settings)
