"""Request bodies: how large one may be, how long it may take, and how much all of them may hold together."""

import trio
from quart import Request

from corral.errors import PayloadTooLarge, RequestTimeout


async def read_body(request: Request, *, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole request body, counted as it arrives; cancel-safe.

    Raises PayloadTooLarge as soon as it is known to be, and RequestTimeout.
    """
    too_large = PayloadTooLarge(
        f"the request body is larger than {limit_bytes} bytes; see --body-limit-bytes",
        limit_bytes=limit_bytes,
    )
    if (request.content_length or 0) > limit_bytes:
        raise too_large
    body = bytearray()
    with trio.move_on_after(timeout_s) as scope:
        async for data in request.body:
            body += data
            if len(body) > limit_bytes:
                raise too_large
    if scope.cancelled_caught:
        raise RequestTimeout(f"the request body did not arrive within {timeout_s:g} s")
    return bytes(body)
