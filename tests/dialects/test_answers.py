"""What a client is told of an error, whatever its API."""

import json

import pytest

from corral.dialects import Errors
from corral.dialects.anthropic.errors import AnthropicErrors
from corral.dialects.openai.errors import OpenAIErrors
from corral.errors import InvalidRequest


@pytest.mark.parametrize("errors", [OpenAIErrors(), AnthropicErrors()])
def test_an_error_quotes_the_request_but_does_not_give_megabytes_of_it_back(errors: Errors) -> None:
    message = "Invalid 'messages[0].role': invalid value '" + "é" * 10**6
    body = errors.error(InvalidRequest(message, param="messages[0].role"), "req_1").body
    assert len(body) < 3000
    told = json.loads(body)["error"]["message"]
    assert told.startswith("Invalid 'messages[0].role'")
    assert told.endswith("é…")
