"""How long a person waits: start of the page, first word, whole comparison; beside the plainest Gradio chat.

    python benchmarks/portal.py

Prints seconds and, where there is something to compare with, ratios measured in the same run. The yardstick is what
one would write without this project: a bare ``gr.ChatInterface`` over transformers' ``generate`` with a streamer, same
weights.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from gradio_client import Client

ROOT = Path(__file__).resolve().parent.parent
MESSAGE = "My sister has not spoken to me since the wedding and I do not know what I did."

PLAIN = f"""
import threading, gradio as gr
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer
path = {str(ROOT / "models" / "starter-base")!r}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path).float()
def chat(message, history):
    ids = tokenizer.apply_chat_template([{{"role": "user", "content": message}}], add_generation_prompt=True,
        return_dict=True, return_tensors="pt")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = dict(**ids, max_new_tokens=72, do_sample=True, temperature=0.4, top_p=0.9, no_repeat_ngram_size=4)
    threading.Thread(target=model.generate, kwargs=dict(options, streamer=streamer)).start()
    text = ""
    for piece in streamer:
        text += piece
        yield text
gr.ChatInterface(chat, api_name="chat").launch()
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def serve(command: list[str], data: str) -> tuple[subprocess.Popen, str, float]:
    """Start a server; returns it, its address, and the seconds until its page answered."""
    port = free_port()
    env = os.environ | {"GRADIO_SERVER_PORT": str(port), "EXTES_DATA_DIR": data, "GRADIO_ANALYTICS_ENABLED": "False"}
    began = time.monotonic()
    process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).read()
            return process, url, time.monotonic() - began
        except OSError:
            if process.poll() is not None or time.monotonic() - began > 300:
                sys.exit(f"{command[-1][:60]} did not start")
            time.sleep(0.05)


def first_word(client: Client, *arguments: object, api: str) -> tuple[float, float]:
    """Seconds to the first word and to the end of one streamed reply."""
    began = time.monotonic()
    first = None
    for piece in client.submit(*arguments, api_name=api):
        said = piece["a"] and piece["b"] if isinstance(piece, dict) else piece
        if said and first is None:
            first = time.monotonic() - began
    return first or float("nan"), time.monotonic() - began


def median(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def until_ready(client: Client) -> float:
    began = time.monotonic()
    while True:
        try:
            client.predict(MESSAGE, [], api_name="/chat")
            return time.monotonic() - began
        except Exception:
            time.sleep(0.2)


def main() -> None:
    argparse.ArgumentParser(description="How long a person waits. Takes about a minute; no options.").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, url, page = serve([sys.executable, "app.py"], f"{folder}/data")
        client = Client(url, verbose=False)
        ready = page + until_ready(client)
        chat = median([first_word(client, MESSAGE, [], api="/chat") for _ in range(7)])
        pairs = []
        for _ in range(3):
            token = client.predict({"agreed": True, "of_age": True, "scenario": None}, api_name="/start")["comparison"]
            pairs += [first_word(client, token, MESSAGE, api="/say") for _ in range(3)]
        compare = median(pairs)
        ours.terminate()
        ours.wait(30)

        plain, url, plain_page = serve([sys.executable, "-c", PLAIN], folder)
        client = Client(url, verbose=False)
        client.predict(MESSAGE, api_name="/chat")
        plain_chat = median([first_word(client, MESSAGE, api="/chat") for _ in range(7)])
        plain.terminate()

    def timed(*command: str) -> float:
        runs = []
        for _ in range(5):
            began = time.monotonic()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            runs.append(time.monotonic() - began)
        return statistics.median(runs)

    help_time, bare = timed("-m", "extes.cli", "--help"), timed("-c", "pass")

    print(f"{'':38}{'here':>9}{'plain':>9}{'ratio':>8}")
    print(f"{'page answers after the start, s':38}{page:9.2f}{plain_page:9.2f}{page / plain_page:8.2f}")
    print(f"{'models ready after the start, s':38}{ready:9.2f}{plain_page:9.2f}{ready / plain_page:8.2f}")
    print(f"{'chat: first word, s':38}{chat[0]:9.2f}{plain_chat[0]:9.2f}{chat[0] / plain_chat[0]:8.2f}")
    print(f"{'chat: whole reply, s':38}{chat[1]:9.2f}{plain_chat[1]:9.2f}{chat[1] / plain_chat[1]:8.2f}")
    print(f"{'compare: first word of both sides, s':38}{compare[0]:9.2f}")
    print(f"{'compare: both released, s':38}{compare[1]:9.2f}")
    print(f"{'extes --help, s (python -c pass)':38}{help_time:9.2f}{bare:9.2f}{help_time / bare:8.2f}")


if __name__ == "__main__":
    main()
