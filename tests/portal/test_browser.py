"""A person with a browser: real Chromium against the running portal."""

import os
import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.conftest import STUDY, Portal, write_study

CHROMIUM = os.environ.get("EXTES_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM and not os.environ.get("CI"),
        reason="no chromium here; install it or name it with EXTES_CHROMIUM",
    ),
]


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def page(request):
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport={"width": request.param, "height": 844}).new_page()
        page.set_default_timeout(30_000)
        yield page
        browser.close()


def consent(page, url):
    page.goto(f"{url}/compare")
    page.get_by_label("I have read this").check()
    page.get_by_label("I am 18 or older").check()
    page.get_by_role("button", name="Begin").click()


def say(page, text, number):
    box = page.get_by_placeholder(re.compile("Write as the person"))
    box.fill(text)
    box.press("Enter")
    page.wait_for_function(
        "n => document.querySelectorAll('.thread .pair').length === n"
        " && document.querySelector('.thread').getAttribute('aria-busy') === 'false'",
        arg=number,
    )


def test_a_volunteer_goes_from_consent_to_receipt(page, portal, tmp_path):
    before = len(portal.ratings(tmp_path))
    consent(page, portal.url)
    for n in range(1, 4):
        say(page, f"message {n} <b>bold</b>", n)
    assert page.locator(".thread .said b").count() == 0, "what a person writes is shown as they wrote it"
    assert "provider" not in page.content()
    for group in page.locator("fieldset:visible").all():
        group.get_by_role("radio").first.check()
    page.get_by_role("button", name="Send my rating").click()
    receipt = page.locator(".receipt code").inner_text()
    assert re.fullmatch(r"[0-9A-F]{4}(-[0-9A-F]{4}){3}", receipt)
    assert "provider" in page.locator(".receipt").inner_text()
    rows = portal.ratings(tmp_path)
    assert len(rows) == before + 1
    assert rows[-1]["answers"] == {"fluency": "a", "overall": "a"}


def test_nothing_begins_without_consent(page, portal):
    page.goto(f"{portal.url}/compare")
    page.get_by_label("I have read this").check()
    page.get_by_role("button", name="Begin").click()
    page.get_by_text("confirm that you are 18 or older").wait_for()
    assert in_reach(page), "an error does not lie over the way to help"
    assert page.evaluate("() => Object.keys(localStorage).filter(k => k.includes('extes')).length") == 0


def test_a_reload_goes_on_where_it_stopped(page, portal):
    consent(page, portal.url)
    say(page, "before the reload", 1)
    page.reload()
    page.get_by_text("before the reload").wait_for()
    say(page, "after the reload", 2)


def test_an_answer_under_way_is_there_after_a_reload(page, slow_portal):
    consent(page, slow_portal.url)
    box = page.get_by_placeholder(re.compile("Write as the person"))
    box.fill("before the reload")
    box.press("Enter")
    page.get_by_text("Both are writing").wait_for()
    page.reload()
    page.get_by_text("before the reload").wait_for()
    page.get_by_text("Both have answered").wait_for()
    expect(page.locator(".thread .said")).to_have_count(1)
    expect(page.get_by_text("That was a long day")).to_have_count(1)
    say(page, "after the reload", 2)


def test_the_receipt_is_there_again_after_a_reload(page, portal):
    consent(page, portal.url)
    for n in range(1, 4):
        say(page, f"message {n}", n)
    for group in page.locator("fieldset:visible").all():
        group.get_by_role("radio").last.check()
    page.get_by_role("button", name="Send my rating").click()
    receipt = page.locator(".receipt code").inner_text()
    page.reload()
    expect(page.locator(".receipt code")).to_have_text(receipt)
    page.get_by_role("button", name="Start another").click()
    page.get_by_role("button", name="Begin").wait_for()


def leave(page):
    page.get_by_role("button", name="Stop here").click()
    page.get_by_text("You stopped, and that is all right").wait_for()


@pytest.mark.parametrize("exchanges", [0, 3])
def test_a_rater_stops_at_any_time_and_a_reload_does_not_bring_it_back(page, portal, tmp_path, exchanges):
    before = len(portal.ratings(tmp_path))
    page.goto(f"{portal.url}/compare")
    expect(page.get_by_role("button", name="Begin")).to_be_visible()
    expect(page.get_by_role("button", name="Stop here")).to_have_count(0)
    consent(page, portal.url)
    for n in range(exchanges):
        say(page, f"message {n}", n + 1)
    kept = page.wait_for_function("() => localStorage.getItem('extes')").json_value()
    leave(page)
    for name in ("Stop here", "Send my rating"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.get_by_placeholder(re.compile("Write as the person"))).to_have_count(0)
    # It is encrypted; the comparison's token is gone from it, and the rater's stays.
    page.wait_for_function("n => localStorage.getItem('extes').length < n", arg=len(kept))
    assert len(portal.ratings(tmp_path)) == before
    page.get_by_role("button", name="Start another").wait_for()
    page.reload()
    page.get_by_role("button", name="Begin").wait_for()
    page.wait_for_timeout(500)
    expect(page.locator(".situation")).to_have_count(0)


def test_an_answer_under_way_does_not_disturb_who_has_stopped(page, slow_portal):
    consent(page, slow_portal.url)
    box = page.get_by_placeholder(re.compile("Write as the person"))
    box.fill("hello")
    box.press("Enter")
    page.get_by_text("Both are writing").wait_for()
    leave(page)
    page.get_by_role("button", name="Start another").click()
    page.get_by_role("button", name="Begin").click()
    page.locator(".situation").wait_for()
    page.wait_for_timeout(6000)  # the answer would have come, or its deadline
    expect(page.locator(".toast-wrap .toast-body")).to_have_count(0)
    expect(page.locator(".stopped")).to_have_count(0)
    expect(page.locator(".thread .said")).to_have_count(0)
    say(page, "again", 1)


def test_the_focus_follows_what_appears(page, portal):
    consent(page, portal.url)
    page.wait_for_function("() => document.activeElement.classList.contains('situation')")
    say(page, "hello", 1)
    assert page.evaluate("() => document.activeElement.tagName") == "TEXTAREA"
    assert page.locator(".block.announced").get_attribute("aria-live") == "polite"


def test_a_crisis_shows_help_and_ends_the_comparison(page, portal):
    consent(page, portal.url)
    box = page.get_by_placeholder(re.compile("Write as the person"))
    box.fill("I want to end my life")
    box.press("Enter")
    page.locator(".stopped").wait_for()
    assert "You did nothing wrong" in page.locator(".stopped").inner_text()
    page.get_by_text("Need help now?").first.click()
    assert page.get_by_text("Samaritans").first.is_visible()


def test_a_crisis_as_the_situation_leaves_help_on_the_page(page, portal):
    page.goto(f"{portal.url}/compare")
    page.get_by_label("My own").check()
    page.get_by_label("Your situation, in a few words").fill("I want to die")
    page.get_by_role("button", name="Begin").click()
    page.locator(".stopped").wait_for()
    assert "help lines" in page.locator(".stopped").inner_text()
    page.get_by_role("button", name="Start another").click()
    page.get_by_role("button", name="Begin").wait_for()


def test_send_tapped_twice_sends_once_and_complains_of_nothing(page, portal):
    consent(page, portal.url)
    page.get_by_placeholder(re.compile("Write as the person")).fill("hello")
    page.get_by_role("button", name="Send", exact=True).dblclick()
    page.wait_for_function("() => document.querySelectorAll('.thread .pair').length === 1")
    page.wait_for_timeout(2000)
    expect(page.locator(".toast-wrap .toast-body")).to_have_count(0)
    expect(page.locator(".thread .said")).to_have_count(1)


def in_reach(page):
    """Whether a tap would meet the way to help, where the page is scrolled to now."""
    return page.evaluate(
        """() => { const r = document.querySelector('.help summary').getBoundingClientRect();
        return !!document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2)?.closest('.help'); }"""
    )


def test_help_is_one_tap_away_however_far_one_has_scrolled(page, portal):
    page.set_viewport_size({"width": page.viewport_size["width"], "height": 400})
    consent(page, portal.url)
    for n in range(1, 4):
        say(page, f"message {n}", n)
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") > 100
    assert in_reach(page)


def test_help_is_one_tap_away_on_every_page(page, portal):
    for path in ("", "/compare", "/results"):
        page.goto(portal.url + path)
        page.get_by_text("Need help now?").first.click()
        assert page.get_by_text("988 Suicide").first.is_visible()


def test_chat_streams_retries_undoes_and_clears(page, portal):
    page.goto(portal.url)
    page.get_by_text("None is a therapist or a person").wait_for()
    box = page.get_by_role("textbox").last
    box.fill("hello there")
    box.press("Enter")
    page.get_by_text("That was a long day").wait_for()
    page.get_by_role("button", name="Retry").click()
    page.get_by_text("That was a long day").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("That was a long day").wait_for(state="detached")
    expect(page.get_by_role("textbox").last).to_have_value("hello there")


@pytest.fixture(scope="module")
def slow_portal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slow")
    study = STUDY.replace('replies = ["That', 'delay = 0.3\nreplies = ["That')
    study = study.replace("deadline_seconds = 5", "deadline_seconds = 30")
    running = Portal(write_study(folder / "study", study), folder / "run" / "data").start()
    yield running
    running.stop()


def test_chat_stops_when_asked_and_clears(page, slow_portal):
    page.goto(slow_portal.url)
    box = page.get_by_role("textbox").last
    box.fill("hello there")
    box.press("Enter")
    page.get_by_text("That was a").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.wait_for_timeout(1000)
    said = page.locator(".bot.message").last.inner_text()
    assert said.startswith("That was") and "hour" not in said
    page.wait_for_timeout(2000)
    assert page.locator(".bot.message").last.inner_text() == said
    page.get_by_role("button", name="Clear").first.click()
    expect(page.locator(".bot.message")).to_have_count(0)


def test_nothing_scrolls_sideways(page, portal):
    for path in ("", "/compare", "/results"):
        page.goto(portal.url + path)
        page.get_by_text("Need help now?").first.wait_for()
        page.wait_for_timeout(500)
        width = page.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1], path


def test_nothing_is_fetched_from_elsewhere(page, portal):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for path in ("", "/compare"):
        page.goto(portal.url + path)
        page.get_by_text("Need help now?").first.wait_for()
        page.wait_for_timeout(500)
    elsewhere = [url for url in asked if not url.startswith((portal.url, "data:", "blob:"))]
    assert elsewhere == []
