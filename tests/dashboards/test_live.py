"""The playground's client and page against a live gateway: ``mopo-serve run`` on the embedded engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboards.errors import GatewayError
from dashboards.live import Gateway, Piece
from dashboards.settings import FAMILY_VARIABLE, GATEWAY_VARIABLE, READ_ONLY_VARIABLE
from mopo_eval.engine import Engine
from tests.dashboards.running import healthy, opened, submit, text
from tests.dashboards.served import free_port
from tests.mopo_serve.test_end_to_end import serving

PAGE = "views/playground.py"
OPTIONS = {"max_tokens": 8, "temperature": 0.0}


@pytest.fixture(scope="module")
def url(tiny_family: Path, embedded_engine: Engine) -> Iterator[str]:
    with serving(tiny_family, "--engine", embedded_engine.url) as here:
        yield here.url


def test_two_profiles_answer_at_once_each_in_pieces_with_policy_and_request(url: str) -> None:
    gateway = Gateway(f"{url}/v1")
    first, second = gateway.profiles()[:2]
    pieces = list(gateway.answers([first, second], "Where is the river?", OPTIONS))
    for side, profile in enumerate((first, second)):
        mine = [piece for piece in pieces if piece.side == side]
        assert mine[0].policy == gateway.resolve(profile)["policy"]
        assert mine[0].request_id
        assert len(mine) > 1
        assert not [piece.error for piece in mine if piece.error]


def test_an_unknown_profile_ends_its_own_answer_alone(url: str) -> None:
    gateway = Gateway(url)
    pieces = list(gateway.answers([gateway.profiles()[0], "nobody"], "Hello?", OPTIONS))
    errors = {piece.side: piece.error for piece in pieces if piece.error}
    assert list(errors) == [1]
    assert "(404)" in errors[1]
    assert [piece.policy for piece in pieces if piece.side == 0 and piece.policy]


def test_a_gateway_that_is_not_there_is_said_with_the_command_that_starts_one() -> None:
    gateway = Gateway(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(GatewayError, match="mopo-serve run"):
        gateway.profiles()
    (piece,) = gateway.answer(0, "balanced", "Hello?", {})
    assert isinstance(piece, Piece)
    assert "127.0.0.1" in piece.error


def test_one_prompt_is_answered_side_by_side_on_the_page(
    url: str, tiny_family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAMILY_VARIABLE, str(tiny_family))
    monkeypatch.setenv(GATEWAY_VARIABLE, url)
    app = opened(PAGE)
    gateway = Gateway(url)
    first, second = gateway.profiles()[:2]
    assert app.selectbox(key="left-profile").value == first
    assert app.selectbox(key="right-profile").value == second
    app.text_area(key="play-prompt").input("Where is the river?")
    app.number_input(key="play-tokens").set_value(8)
    submit(app, "ask")
    page = text(app)
    for profile in (first, second):
        assert f'aria-label="Answer of {profile}"' in page
        assert gateway.resolve(profile)["policy"] in page
    assert "Why: No floor is set; policy-00 has the greatest helpfulness" in page
    assert "Why: 1 of 3 policies hold safety at least 0.85; among them policy-02 has the greatest helpfulness" in page
    submit(app, "vote")
    assert app.error[0].value == "Choose a thumb first."
    monkeypatch.setenv(READ_ONLY_VARIABLE, "1")
    app.run()
    assert f'aria-label="Answer of {first}"' in text(healthy(app))  # to be read,
    assert not [button for button in app.button if "vote" in button.label.lower()]  # not to be judged
    assert not [each for each in app.button_group if str(each.key).startswith("vote-")]


def test_without_a_gateway_the_page_says_how_to_start_one(tiny_family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAMILY_VARIABLE, str(tiny_family))
    assert "mopo-serve run" in text(opened(PAGE))
    monkeypatch.setenv(GATEWAY_VARIABLE, f"http://127.0.0.1:{free_port()}")
    assert "The gateway does not answer" in text(healthy(opened(PAGE)))
