"""The remote arm: the real ``openai`` client against a real server."""

import asyncio
import json
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from extes.arms.arm import ArmError, Sampling
from extes.arms.remote import RemoteArm
from extes.study.config import load
from extes.study.roster import build
from tests.conftest import STUDY, write_study


class Server(BaseHTTPRequestHandler):
    """Chat completions, streamed. The model's name says what goes wrong."""

    seen: ClassVar[list[dict]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Server.seen.append(body | {"authorization": self.headers["Authorization"]})
        if body["model"] == "broken":
            said = {"message": f"cannot serve {body['messages']}", "code": "model_not_found", "param": "a b"}
            answer = json.dumps({"error": said}).encode()
            self.send_response(404)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            return
        if body["model"] == "slow":
            time.sleep(2)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if body["model"] == "nonsense":
            self.wfile.write(b"data: {not json\n\n")
            return
        pieces = ["Since", " when", "?"]
        ends = {"short": "length", "filtered": "content_filter", "cut": None}
        for n, piece in enumerate([*pieces, ""]):
            finish = None if n < len(pieces) else ends.get(body["model"], "stop")
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": finish}
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def ask(url, model="good", system=""):
    return asked(RemoteArm("x", url, model, Sampling(0.5, 0.8), system))


def of_a_study(tmp_path, url, model="good", deadline="5", more=""):
    """The arm that a study file describes."""
    old = 'kind = "scripted"\nreplies = ["I see. Try sleeping more."]'
    text = STUDY.replace(old, f'kind = "remote"\nbase_url = "{url}"\nmodel = "{model}"\n{more}')
    text = text.replace("deadline_seconds = 5", f"deadline_seconds = {deadline}")
    return build(load(write_study(tmp_path, text)))["cold_13b_arm"]


def asked(arm):
    arm.load()

    async def go():
        return [p async for p in arm.reply([{"role": "user", "content": "I can't sleep."}], 20, 2**40 + 1)]

    return asyncio.run(go())


def test_a_reply_streams_in_with_the_studys_settings(url, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    pieces = ask(url, system="Be kind.")
    assert "".join(p.text for p in pieces) == "Since when?"
    assert pieces[-1].finish == "stop"
    sent = Server.seen[-1]
    assert sent["messages"][0] == {"role": "system", "content": "Be kind."}
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.5, 0.8, 20)


def test_a_server_has_as_long_as_the_study_says(url, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(ArmError, match="APITimeoutError"):
        asked(of_a_study(tmp_path, url, "slow", deadline="0.5"))
    patient = of_a_study(tmp_path, url, "slow", deadline="90")
    assert asked(patient)[-1].finish == "stop"
    assert patient._client.timeout == 90


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_length_of_a_reply_is_asked_for_under_the_name_that_the_server_takes(url, monkeypatch, tmp_path, field):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    asked(of_a_study(tmp_path, url, more=f'limit_field = "{field}"'))
    assert {k: v for k, v in Server.seen[-1].items() if k.startswith("max_")} == {field: 20}


def test_a_reply_cut_by_the_cap_says_so(url, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert ask(url, "short")[-1].finish == "length"


def test_a_servers_error_is_an_arm_error_without_the_message_that_the_server_sent_back(url, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(ArmError) as refused:
        ask(url, "broken")
    assert str(refused.value) == "arm x: NotFoundError (404, model_not_found)"
    assert "cannot serve" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("model", ["filtered", "cut", "nonsense"])
def test_an_answer_without_a_proper_end_is_an_arm_error(url, monkeypatch, model):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(ArmError):
        ask(url, model)


def test_a_missing_key_is_told_before_anyone_chats(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ArmError, match="OPENAI_API_KEY is empty"):
        RemoteArm("x", "http://127.0.0.1:1", "m", Sampling()).load()
