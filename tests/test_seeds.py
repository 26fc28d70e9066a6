import shutil

import pytest

from extes import seeds


def test_the_projects_seeds_meet_the_bar():
    report = seeds.check(each_scenario=3, each_strategy=40)
    assert report.problems == []
    assert len(report.dialogues) >= 108


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "seeds"
    shutil.copytree(seeds.SEEDS / "academic-stress", folder / "academic-stress")
    return folder


def problems_after(folder, change):
    path = folder / "academic-stress" / "1.txt"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    return "\n".join(seeds.check(folder).problems)


def test_fancy_punctuation_is_found(copy):
    assert "not plain punctuation" in problems_after(
        copy, lambda t: t.replace(". ", " \u2014 ", 1).replace("I", "I\u2014")
    )


def test_meta_talk_is_found(copy):
    found = problems_after(copy, lambda t: t + "Supporter [Others]: As an AI, I cannot feel.\n")
    assert "says 'As an AI'" in found


def test_an_unknown_strategy_is_found_with_its_line(copy):
    assert "1.txt: line" in problems_after(copy, lambda t: t + "Supporter [Magic]: Hi.\n")


def test_a_shared_stretch_of_twelve_words_is_found(copy):
    text = (copy / "academic-stress" / "2.txt").read_text(encoding="utf-8")
    (copy / "academic-stress" / "4.txt").write_text(text, encoding="utf-8")
    assert any("share:" in p for p in seeds.check(copy).problems)


def test_two_turns_of_one_speaker_in_a_row_are_found(copy):
    last = "Seeker: One.\nSeeker: Two.\n"
    assert "two seeker turns in a row" in problems_after(copy, lambda t: t + last)


def test_a_folder_without_seeds_is_a_clear_problem(tmp_path):
    assert "no seed files" in seeds.check(tmp_path).problems[0]


@pytest.mark.parametrize("line", ["arcs: resists", "arc: resists\narc: terse"])
def test_a_header_line_that_is_unknown_or_there_twice_is_found(copy, line):
    """Left out without a word, a misspelt `arc` would be an arc that nobody counts."""
    found = problems_after(copy, lambda t: t.replace("description:", f"{line}\ndescription:", 1))
    assert "1.txt: line " in found
