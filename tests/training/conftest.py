"""A tiny base and a few made dialogues, once for each module that tunes."""

import pytest

from tests.training import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    return tiny.write_dialogues(tmp_path_factory.mktemp("data") / "made.jsonl")
