"""Before the rating, no byte that reaches the browser tells which arm is which."""

import base64
import http.server
import json
import threading

import httpx
from gradio_client import Client

from tests.conftest import CONSENT, RATING

SECRETS = ["warm_7b_arm", "cold_13b_arm", "The warm provider", "The cold provider", "script-", "warm provider"]


def forms(secret):
    """A secret as it is, and in each of its three base64 alignments."""
    yield secret.encode()
    for pad in range(3):
        raw = base64.b64encode(b"x" * pad + secret.encode())
        yield raw[4:-4]


def assert_no_secret(body: bytes, where: str):
    for secret in SECRETS:
        for form in forms(secret):
            assert form.lower() not in body.lower(), f"{secret!r} in {where}"


def test_pages_config_and_schema_name_no_arm(portal):
    for path in ("", "compare", "results", "config", "gradio_api/info", "gradio_api/startup-events", "theme.css"):
        assert_no_secret(httpx.get(f"{portal.url}/{path}", timeout=30).content, path or "/")


def test_no_byte_of_a_comparison_names_an_arm_until_it_is_rated(portal):
    def call(name, data):
        event = httpx.post(f"{portal.url}/gradio_api/call/{name}", json={"data": data}, timeout=30)
        stream = httpx.get(f"{portal.url}/gradio_api/call/{name}/{event.json()['event_id']}", timeout=60)
        return event.content + json.dumps(dict(stream.headers)).encode() + stream.content

    seen = call("start", [CONSENT])
    token = json.loads(seen.split(b"data: ")[1].splitlines()[0])[0]["comparison"]
    for n in range(3):
        seen += call("say", [token, f"message {n}"])
    seen += call("rate", [token, {"answers": {"fluency": "a"}}])
    assert_no_secret(seen, "the wire before the rating")
    assert b"provider" in call("rate", [token, RATING])


def test_the_browser_keeps_no_history_of_runs_and_handlers_are_private(portal):
    config = httpx.get(f"{portal.url}/config", timeout=30).json()
    assert config.get("run_history") in (False, None)
    assert config.get("footer_links") == []
    public = {d["api_name"] for d in config["dependencies"] if d.get("api_visibility") == "public"}
    assert public == {"start", "say", "rate", "leave", "withdraw", "chat"}
    assert set(Client(portal.url, verbose=False).view_api(return_format="dict")["named_endpoints"]) == {
        "/start",
        "/say",
        "/rate",
        "/leave",
        "/withdraw",
        "/chat",
    }


def test_no_file_is_taken(portal):
    """Whoever has the address could fill the disk, and have the portal serve what they like."""
    reply = httpx.post(f"{portal.url}/gradio_api/upload", files={"files": ("a.html", b"<script>")}, timeout=30)
    assert reply.status_code == 400, reply.text


def test_no_file_is_fetched(portal):
    """Gradio fetches what a client names as a file, from anywhere."""
    asked = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file = {"path": f"http://127.0.0.1:{server.server_port}/a", "meta": {"_type": "gradio.FileData"}}
        reply = httpx.post(f"{portal.url}/gradio_api/call/start", json={"data": [file]}, timeout=30)
        server.shutdown()
    assert reply.status_code == 400, reply.text
    assert asked == []


def test_a_huge_request_is_refused(portal):
    reply = httpx.post(f"{portal.url}/gradio_api/call/chat", json={"data": ["x" * 5_000_000, []]}, timeout=30)
    assert reply.status_code == 413, reply.text


def test_monitoring_and_telemetry_are_off(portal):
    assert httpx.get(f"{portal.url}/monitoring", timeout=30).status_code in (403, 404)
    assert httpx.get(f"{portal.url}/config", timeout=30).json().get("analytics_enabled") is False
