"""Answers in one piece: JSON, and errors in the shape of the API that was asked."""

import msgspec
from quart import Response

from corral.dialects import Errors

JSON = "application/json"


def json_reply(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status=status, content_type=JSON)


def error_reply(errors: Errors, error: Exception, request_id: str) -> Response:
    reply = errors.error(error, request_id)
    return Response(reply.body, status=reply.status, content_type=JSON, headers=reply.headers)
