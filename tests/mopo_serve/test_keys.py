import hmac
import json
import stat
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mopo_serve.access import Access
from mopo_serve.cli import main
from mopo_serve.key_file import KeyFileError, create_key, default_key_file, keys_to_serve, read_keys, revoke_key
from mopo_serve.keys import ApiKey, KeyRing, make_key
from mopo_serve.limits import Bucket, KeyUse, Usage
from mopo_serve.openai_errors import ApiError


def bearer(text: str) -> bytes:
    return b"Bearer " + text.encode()


def refused(ring: KeyRing, authorization: bytes | None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ring.find(authorization)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert (b"www-authenticate", b"Bearer") in caught.value.headers()
    return caught.value


def test_a_key_is_found_by_its_text_alone() -> None:
    key, text = make_key("app", "now")
    other, _ = make_key("other", "now")
    ring = KeyRing([key, other])
    assert ring.find(bearer(text)) is key
    assert ring.find(b"bearer  " + text.encode() + b" ") is key


def test_guesses_are_refused_without_saying_what_is_wrong_with_them() -> None:
    key, text = make_key("app", "now")
    other, other_text = make_key("other", "now")
    revoked = other.model_copy(update={"revoked_at": "now"})
    ring = KeyRing([key, revoked])
    secret = text.split("-", 2)[2]
    guesses = [
        text[:-1], text + "x", text.upper(), other_text, f"mopo-{other.id}-{secret}", f"mopo-{'0' * 12}-{secret}",
        f"mopo-{key.id}-", key.id, key.sha256, f"mopo-{key.id}-{key.sha256}", "", "-", "--", "\x00-\xff-\xff",
    ]  # fmt: skip
    messages = {refused(ring, b"Bearer " + guess.encode("latin-1")).message for guess in guesses}
    assert messages <= {"not an API key of this gateway", "not an API key of this gateway, or it was revoked"}
    for header in (None, b"", text.encode(), b"Basic " + text.encode(), b"Bearer"):
        refused(ring, header)


def test_a_known_id_and_an_unknown_one_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    key, text = make_key("app", "now")
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watched(known: bytes, given: bytes) -> bool:
        compared.append((len(known), len(given)))
        return compare(known, given)

    monkeypatch.setattr("mopo_serve.keys.hmac.compare_digest", watched)
    assert KeyRing([key]).find(bearer(text)) is key
    refused(KeyRing([key]), bearer(text[:-1]))
    refused(KeyRing([key]), bearer(f"mopo-{'0' * 12}-secret"))
    assert compared == [(32, 32)] * 3


def test_neither_the_key_nor_its_hash_is_shown() -> None:
    key, text = make_key("app", "now")
    assert text not in repr(key) and key.sha256 not in repr(key)
    assert text.encode() not in key.model_dump_json().encode()
    assert len(text.split("-", 2)[2]) == 43  # 256 bits


def test_a_file_of_keys_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    key, text = create_key(path, "app", floors={"safety": 0.8}, profiles=["careful"])
    assert read_keys(path).find(bearer(text)) == key
    assert text not in path.read_text()
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_revoking_the_last_key_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, text = create_key(path, "app")
    assert revoke_key(path, "app").id == key.id
    ring = read_keys(path)
    refused(ring, bearer(text))
    assert ring  # keys exist, so the gateway stays closed
    with pytest.raises(KeyFileError, match="not revoked"):
        revoke_key(path, key.id)
    create_key(path, "app")  # the name is free again


def test_a_key_that_cannot_be_made_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    create_key(path, "app")
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="exists"):
        create_key(path, "app")
    with pytest.raises(KeyFileError, match="floors"):
        create_key(path, "other", floors={"safety": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"id": "x"}]}', '{"kees": []}'])
def test_a_broken_file_is_not_taken_for_an_empty_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(KeyFileError, match="not a file of API keys"):
        read_keys(path)


def test_a_gateway_that_starts_is_not_open_because_its_keys_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    assert not keys_to_serve(path)
    with pytest.raises(KeyFileError, match="floors"):
        create_key(path, "app", floors={"safety": 2})
    assert not keys_to_serve(path)  # none was made
    create_key(path, "app")
    assert keys_to_serve(path)
    path.unlink()
    with pytest.raises(KeyFileError, match=r"remove .*keys\.json\.lock"):
        keys_to_serve(path)
    path.write_text('{"keys": []}')
    with pytest.raises(KeyFileError, match="now it holds none"):
        keys_to_serve(path)


def test_keys_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=create_key, args=(path, f"app-{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(path).keys.values()} == {f"app-{number}" for number in range(8)}


def test_a_gateway_follows_its_file_and_never_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    access = Access(read_keys(path), path)
    assert access.open and access.key_of([]) is None
    key, text = create_key(path, "app")
    access.follow()
    assert not access.open
    headers = [(b"authorization", bearer(text))]
    found = access.key_of(headers)
    assert found is not None and found.id == key.id
    path.write_text("broken")
    access.follow()
    assert access.key_of(headers) == found  # what was known stays known
    path.unlink()
    access.follow()
    with pytest.raises(ApiError):
        access.key_of(headers)
    assert not access.open


def test_two_authorization_headers_are_none(tmp_path: Path) -> None:
    key, text = make_key("app", "now")
    with pytest.raises(ApiError, match="one Authorization"):
        Access(KeyRing([key])).key_of([(b"authorization", bearer(text)), (b"authorization", b"Bearer x")])


def limited(**limits: int) -> KeyUse:
    key, _ = make_key("app", "now", **limits)
    return KeyUse(key, now=100.0)


def wait_of(use: KeyUse, now: float) -> int:
    with pytest.raises(ApiError) as caught:
        use.admit(now)
    assert caught.value.status == 429
    assert dict(caught.value.headers())[b"retry-after"] == str(caught.value.retry_after).encode()
    return int(str(caught.value.retry_after))


def test_requests_per_minute_refill_evenly() -> None:
    use = limited(requests_per_minute=6)
    for _ in range(6):
        use.admit(100.0)
    assert wait_of(use, 100.0) == 10  # one in ten seconds
    assert wait_of(use, 107.0) == 3
    use.admit(110.0)
    assert wait_of(use, 110.0) == 10


def test_tokens_are_owed_when_an_answer_took_more_than_was_left() -> None:
    use = limited(tokens_per_minute=60)
    use.admit(100.0)
    use.finish(90, 100.0)  # 30 below nothing
    assert wait_of(use, 100.0) == 31  # until one is there
    assert wait_of(use, 130.0) == 1
    use.admit(131.0)


def test_requests_at_the_same_time() -> None:
    use = limited(concurrency=2)
    use.admit(100.0)
    use.admit(100.0)
    assert wait_of(use, 100.0) == 1
    use.finish(0, 100.0)
    use.admit(100.0)


def test_a_refused_request_counts_nothing() -> None:
    use = limited(requests_per_minute=2, concurrency=1)
    use.admit(100.0)
    for _ in range(5):
        wait_of(use, 100.0)
    use.finish(0, 100.0)
    use.admit(100.0)


def test_a_clock_that_goes_back_or_leaps_gives_no_more_than_a_minute() -> None:
    bucket = Bucket(60, now=1000.0)
    bucket.take(60, 1000.0)
    assert bucket.wait(1, 500.0) == pytest.approx(1.0)
    assert bucket.wait(1, 1000.5) == pytest.approx(0.5)
    assert bucket.wait(60, 10**9) == 0
    bucket.take(60, 10**9)
    assert bucket.wait(1, 10**9) == pytest.approx(1.0)


def test_a_key_that_is_read_again_unchanged_has_used_what_it_had() -> None:
    key, _ = make_key("app", "now", requests_per_minute=1)
    usage = Usage()
    usage.of(key, 0.0).admit(0.0)
    with pytest.raises(ApiError, match="1 requests per minute"):
        usage.of(key.model_copy(), 1.0).admit(1.0)


def test_a_changed_limit_holds_at_once_and_what_is_in_flight_stays_counted() -> None:
    usage = Usage()
    key, _ = make_key("app", "now", concurrency=5)
    use = usage.of(key, 0.0)
    use.admit(0.0)
    tighter: ApiKey = key.model_copy(update={"concurrency": 1})
    assert usage.of(tighter, 1.0) is use
    wait_of(use, 1.0)
    use.finish(0, 2.0)
    usage.of(tighter, 2.0).admit(2.0)


def key_command(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["key", *arguments], env={"MOPO_KEYS": str(path)})


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = key_command(path, "create", "app", "--profile", "careful", "--floor", "safety=0.8", "--pin",
                       "--requests-per-minute", "60")  # fmt: skip
    assert made.exit_code == 0
    text = made.stdout.strip()
    key = read_keys(path).find(bearer(text))
    assert (key.name, key.profiles, key.floors, key.pin, key.admin) == (
        "app",
        ["careful"],
        {"safety": 0.8},
        True,
        False,
    )
    listed = key_command(path, "list")
    assert key.id in listed.stdout and "60 requests/min" in listed.stdout and "safety >= 0.8" in listed.stdout
    told = json.loads(key_command(path, "list", "--json").stdout)
    assert [each["id"] for each in told["keys"]] == [key.id]
    assert text not in listed.output and key.sha256 not in json.dumps(told)
    assert key_command(path, "revoke", key.id).exit_code == 0
    refused(read_keys(path), bearer(text))
    assert "revoked" in key_command(path, "list").stdout


def test_an_admin_key_may_do_nothing_else_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = json.loads(key_command(path, "create", "--name", "ops", "--admin", "--json").stdout)
    key = read_keys(path).find(bearer(made["key"]))
    assert (key.id, key.admin, key.profiles) == (made["id"], True, [])
    both = json.loads(key_command(path, "create", "all", "--admin", "--profile", "careful", "--json").stdout)
    assert read_keys(path).find(bearer(both["key"])).profiles == ["careful"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["create"], 2),
        (["create", "a", "--name", "b"], 2),
        (["create", "app", "--floor", "safety"], 2),
        (["create", "app", "--floor", "safety=7"], 2),
        (["create", "app", "--profile", "No Profile"], 1),
        (["create", "app", "--concurrency", "0"], 2),
        (["revoke", "nobody"], 1),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path: Path, arguments: list[str], status: int) -> None:
    done = key_command(tmp_path / "keys.json", *arguments)
    assert done.exit_code == status
    assert "Traceback" not in done.output


def test_the_file_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOPO_KEYS", str(tmp_path / "k"))
    assert default_key_file() == tmp_path / "k"
    monkeypatch.delenv("MOPO_KEYS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_key_file() == tmp_path / "mopo" / "keys.json"
