"""What a run shows: lines where nobody watches, a live table on a terminal; and a command that starts at once."""

import os
import pty
import re
import subprocess
import sys
import time

from tests.generation.conftest import ROOT


def test_off_a_terminal_it_prints_plain_lines(work, serve):
    server = serve(latency=0.02)
    run = work.generate(server.url)
    assert "\x1b" not in run.err and run.out == ""
    last = next(line for line in run.err.splitlines() if line.startswith("24/24 kept"))
    assert re.search(r"24 requests \| [\d,]+ tokens \| .* kept a minute, 0 in flight", last)
    assert len(run.err.splitlines()) < 12


def test_on_a_terminal_it_shows_a_live_table(work, serve):
    server = serve(latency=0.1, form="prose")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "extes.cli", *work.arguments(server.url, "--concurrency", "4", target=20)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"TERM": "xterm"}, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    text = shown.decode()
    assert "\x1b[" in text
    for word in ("of 20", "unparsable", "accepted", "kept a minute", "left", "in flight", "tokens"):
        assert word in text, word


def test_help_answers_at_once_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['extes', '--help']\n"
        "from extes import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'openai', 'datasketch', 'numpy', 'scipy', 'pydantic', 'rich', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    began = time.process_time()
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "generate" in run.stdout and "pool" in run.stdout
    assert time.process_time() - began < 1


def test_the_policies_offered_are_those_that_exist():
    import argparse

    from extes.generation.commands import add_commands
    from extes.generation.policy import POLICIES

    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    generate = parser._subparsers._group_actions[0].choices["generate"]
    assert set(next(a for a in generate._actions if a.dest == "policy").choices) == set(POLICIES)
