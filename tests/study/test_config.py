import traceback

import pytest

from extes.study.config import Study, StudyError, load
from tests.conftest import ROOT, STUDY, write_study


@pytest.mark.parametrize("name", ["starter", "remote"])
def test_the_studies_to_begin_with_are_valid(name):
    study = load(ROOT / "studies" / f"{name}.toml")
    assert [c.name for c in study.criteria] == ["fluency", "identification", "comforting", "suggestion", "overall"]
    assert study.minimum_exchanges == 3


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("minimum_exchanges = 3", "minimum_exchanges = 0", 5, "greater than or equal to 1 (got 0)"),
        ("reveal = true", "reveel = true", 7, "no such key"),
        ('name = "overall"', 'name = "fluency"', 23, 'two criteria are called "fluency"'),
        ('name = "cold_13b_arm"', 'name = "Cold"', 35, "match pattern"),
        (
            'kind = "scripted"\nreplies = ["I see',
            'kind = "magic"\nreplies = ["I see',
            37,
            "'local', 'remote' or 'scripted'",
        ),
        ('kind = "scripted"\nreplies = ["I see', 'kind = "local"\nreplies = ["I see', 34, 'needs "base"'),
        ('answers = ["a", "tie", "b", "both_bad", "cant_judge"]', "answers = []", 26, "at least 2"),
        ("deadline_seconds = 5", "deadline_seconds = inf", 14, "finite"),
        (
            'kind = "scripted"\nreplies = ["I see',
            'kind = "remote"\nbase_url = "http://u"\nmodel = "m"\nsampling = {no_repeat_ngram_size = 3}\nreplies = ["I',
            34,
            "leave it out",
        ),
        ("maximum_exchanges = 6", "maximum_exchanges = 2", 6, "below minimum_exchanges"),
        ('chat = "warm_7b_arm"', 'chat = "nobody"', 9, 'there is no arm "nobody"'),
        ('consent = "consent.md"', 'consent = "gone.md"', 10, 'cannot read "consent"'),
        ("seed = 7", "seed = seven", None, "line 15"),
        ("deadline_seconds = 5", "deadline_seconds = -5", 14, "greater than 0 (got -5)"),
        ('title = "Rehearsal"\n', "", None, "title: Field required"),
        ('answers = ["a", "tie", "b", "both_bad", "cant_judge"]', 'answers = ["a", "tie"]', 26, '"a" and "b"'),
        ('answers = ["a", "tie", "b", "both_bad", "cant_judge"]', 'answers = ["a", "b", "b"]', 26, "twice"),
        ('consent = "consent.md"', 'consent = "gone\\u0000.md"', 10, 'cannot read "consent"'),
        (STUDY[STUDY.index('[[arms]]\nname = "cold') :], "", None, "two [[arms]] or more"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line_and_the_reason(tmp_path, old, new, line, reason):
    assert old in STUDY
    path = write_study(tmp_path, STUDY.replace(old, new, 1))
    with pytest.raises(StudyError) as caught:
        load(path)
    assert reason in str(caught.value)
    assert "study.toml" in str(caught.value)
    if line:
        assert f"line {line}" in str(caught.value)


@pytest.mark.parametrize("url", ["https://user:hunter2@host/v1", "https://hunter2@host/v1", "user:hunter2@host/v1"])
def test_a_password_in_an_address_is_refused_with_its_line_and_not_shown(tmp_path, url):
    path = write_study(tmp_path, remote(url))
    with pytest.raises(StudyError) as caught:
        load(path)
    reason = "no user or password in base_url; name a variable in api_key_variable"
    assert str(caught.value) == f"{path}, line 39: arms.2.base_url: {reason}"
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def remote(url, more=""):
    old = 'kind = "scripted"\nreplies = ["I see. Try sleeping more."]'
    return STUDY.replace(old, f'kind = "remote"\nmodel = "m"\nbase_url = "{url}"\n{more}')


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://host/v1?key=hunter2", "no ? or # in base_url"),
        ("https://host/v1#hunter2", "no ? or # in base_url"),
        ("hunter2.example/v1", "base_url begins with http:// or https://"),
    ],
)
def test_an_address_with_more_than_a_path_or_without_a_scheme_is_refused_and_not_shown(tmp_path, url, reason):
    path = write_study(tmp_path, remote(url))
    with pytest.raises(StudyError) as caught:
        load(path)
    assert f"{path}, line 39: arms.2.base_url: {reason}" in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("line", ['api_key = "sk-hunter2"', 'api_key_variable = "sk-hunter2"'])
def test_a_key_in_the_study_file_is_refused_and_not_shown(tmp_path, line):
    """It would be in the log, and from there in a dataset."""
    path = write_study(tmp_path, remote("https://host/v1", line))
    with pytest.raises(StudyError) as caught:
        load(path)
    assert f"{path}, line 40: arms.2.{line.split()[0]}: " in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_files_that_an_editor_began_with_a_byte_order_mark_are_read(tmp_path):
    plain, marked = write_study(tmp_path / "1"), write_study(tmp_path / "2")
    for name in ("study.toml", "consent.md"):
        file = marked.parent / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(marked).hash == load(plain).hash


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(StudyError, match="EXTES_STUDY"):
        load(tmp_path / "none.toml")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "s.toml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(StudyError, match="not UTF-8"):
        load(path)


def test_the_hash_covers_what_raters_agree_to(tmp_path):
    one = load(write_study(tmp_path / "1"))
    same = load(write_study(tmp_path / "2"))
    other = load(write_study(tmp_path / "3", consent="We keep nothing at all of it."))
    assert one.hash == same.hash != other.hash


def test_a_key_that_came_later_changes_the_hash_only_where_it_is_used(tmp_path):
    url = "http://host/v1"
    named = [remote(url, f'limit_field = "{field}"') for field in ("max_tokens", "max_completion_tokens")]
    before, same, other = (load(write_study(tmp_path / str(n), text)) for n, text in enumerate([remote(url), *named]))
    assert "limit_field" not in before.model_dump()["arms"][1]
    assert before.hash == same.hash != other.hash
    assert Study.model_validate(other.model_dump()).arms[1].limit_field == "max_completion_tokens"


def test_a_malformed_help_line_file_is_refused(tmp_path):
    (tmp_path / "help.toml").write_text('version = "1"\n')
    path = write_study(tmp_path, STUDY.replace('consent = "consent.md"', 'consent = "consent.md"\nhelp = "help.toml"'))
    with pytest.raises(StudyError, match=r"line 11: the help-line file help.toml is malformed"):
        load(path)
