import pytest

from extes.study.tidy import tidy


@pytest.mark.parametrize(
    ("raw", "finish", "shown"),
    [
        ("  I hear   you. ", "stop", "I hear you."),
        ("<think>they are sad</think>I hear you.", "stop", "I hear you."),
        ("<think>never ends", "length", ""),
        ("**Rest** a bit.\n\n\n\n- one\n- two", "stop", "Rest a bit.\n\none two"),
        ("[Clarification] Since when?", "stop", "Since when?"),
        ("Assistant: Since when?", "stop", "Since when?"),
        ("I hear you. It is hard, and", "length", "I hear you."),
        ("It is hard, and", "length", "It is hard, and..."),
        ("Take 2*3 minutes.", "stop", "Take 2*3 minutes."),
        ("", "stop", ""),
        ("They want X. I will be warm.</think>\n\nHello there.", "stop", "Hello there."),
        ("***Rest*** and ~~sleep~~ <b>well</b>.<|im_end|>", "stop", "Rest and sleep well."),
        ("1. one\n2) two\n\n---\n\u2022 three", "stop", "one two\n\nthree"),
        ("See [this page](https://x.org/a) soon.", "stop", "See this page soon."),
        (
            "![A page](https://x.org/a_(b) \"Title\"), [it](<https://x.org> 'T').",
            "stop",
            "A page, it.",
        ),
        ("one \n \t\n two", "stop", "one\n\ntwo"),
        ("I was 12. Then 13.", "stop", "I was 12. Then 13."),
        ("It is < 5 and > 3.", "stop", "It is < 5 and > 3."),
    ],
)
def test_form_is_made_alike(raw, finish, shown):
    assert tidy(raw, finish) == shown
