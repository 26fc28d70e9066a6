"""The benchmarks are not run here; that each can be begun, and says how, is."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["generation", "portal", "ratings", "training"])
def test_a_benchmark_says_how_it_is_used_and_does_nothing_else(name):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--help"], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
