"""What finished requests mean, by messages that real servers send."""

import json

import pytest

from extes.generation.answer import NotAReply, read
from extes.generation.errors import Stop

PLAIN = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
LIMIT_TOO_LARGE = "'max_tokens' or 'max_completion_tokens' is too large. This model's maximum context length is 2048"
OTHER_LIMIT = "Unsupported parameter: 'max_tokens' is not supported here. Use 'max_completion_tokens' instead."
WITH_FORMAT = PLAIN | {"response_format": {"type": "json_schema"}}


def error(message, **more):
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", **more}})


@pytest.mark.parametrize(
    ("status", "message", "payload", "code"),
    [
        (400, "'response_format' 'json_schema' is not supported with this model.", WITH_FORMAT, "format_refused"),
        (422, "body.response_format: Extra inputs are not permitted", WITH_FORMAT, "format_refused"),
        (400, "guided decoding backend failed to compile the grammar", WITH_FORMAT, "format_refused"),
        (400, "something nobody has seen", WITH_FORMAT, "format_refused"),
        (400, "something nobody has seen", PLAIN, "bad_request"),
        (400, "This model's maximum context length is 4096 tokens. However, you", PLAIN, "prompt_too_long"),
        (400, LIMIT_TOO_LARGE, PLAIN, "prompt_too_long"),
        (413, "Request Entity Too Large", PLAIN, "prompt_too_long"),
        (400, "Invalid prompt: your prompt was flagged as potentially violating", PLAIN, "provider_refused"),
    ],
)  # fmt: skip
def test_refusals_of_a_request_have_their_code(status, message, payload, code):
    answer = read(status, error(message), payload)
    assert answer.code == code and answer.tokens is None and message[:20] in answer.detail


@pytest.mark.parametrize(
    ("status", "message", "says"),
    [
        (401, "Incorrect API key provided: sk-x", "OPENAI_API_KEY"),
        (403, "Project does not have access to model", "OPENAI_API_KEY"),
        (404, "The model `m` does not exist or you do not have access to it.", "--model"),
        (400, "The model 'm' was not found", "--model"),
        (400, "invalid model ID", "--model"),
        (402, "Insufficient credits", "credit"),
        (400, OTHER_LIMIT, "--limit-field max_completion_tokens"),
    ],
)  # fmt: skip
def test_what_no_request_can_pass_stops_the_run_and_names_the_remedy(status, message, says):
    with pytest.raises(Stop, match=says):
        read(status, error(message), WITH_FORMAT)


def reply(content, finish="stop", **message):
    return json.dumps({"choices": [{"finish_reason": finish, "message": {"content": content, **message}}]})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (reply("hello"), None),
        (reply(""), "empty_reply"),
        (reply(None), "empty_reply"),
        (reply("hel", finish="length"), "truncated"),
        (reply("", finish="content_filter"), "provider_refused"),
        (reply(None, refusal="I can't help with that."), "provider_refused"),
    ],
)
def test_replies_have_their_code(body, code):
    answer = read(200, body, PLAIN)
    assert answer.code == code and answer.tokens is not None


@pytest.mark.parametrize("body", ["<html>502</html>", "[]", "{}", '{"choices": []}', '{"choices": [{"mess', "{" * 9999])
def test_a_200_that_is_no_completion_is_no_reply(body):
    with pytest.raises(NotAReply):
        read(200, body, PLAIN)
