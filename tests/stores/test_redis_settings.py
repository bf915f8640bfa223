"""What the URL of an engine says, and what is refused of it."""

import pytest

from trialogue.core.errors import SettingsError
from trialogue.stores._redis.settings import RedisSettings, parse_url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://localhost", RedisSettings(addresses=(("localhost", 6379),))),
        (
            "redis://ann:s%2Fx%40y@[::1]:7/3",
            RedisSettings(addresses=(("::1", 7),), username="ann", password="s/x@y", database=3),
        ),
        (
            "redis://a%2Fb:%25%2F%3F%23@@h",
            RedisSettings(addresses=(("h", 6379),), username="a/b", password="%/?#@"),
        ),
        ("rediss://:x@h/", RedisSettings(addresses=(("h", 6379),), password="x", is_tls=True)),
        ("redis+unix:///run/a.sock?db=2", RedisSettings(path="/run/a.sock", database=2)),
        (
            "redis+sentinel://a,b:7/main/4",
            RedisSettings(addresses=(("a", 26379), ("b", 7)), service="main", database=4),
        ),
        (
            "rediss+sentinel://a/main?ca=/a.pem",
            RedisSettings(addresses=(("a", 26379),), service="main", is_tls=True, ca="/a.pem"),
        ),
        (
            "redis+cluster://ann:x@a,[::1]:7/?prefix=talk",
            RedisSettings(
                addresses=(("a", 6379), ("::1", 7)),
                by_slot=True,
                username="ann",
                password="x",
                prefix="talk",
            ),
        ),
        (
            "rediss+cluster://a/0?ca=/a.pem",
            RedisSettings(addresses=(("a", 6379),), by_slot=True, is_tls=True, ca="/a.pem"),
        ),
        (
            "redis://h?prefix=talk&replicas=2&lease_seconds=0.1&connect_seconds=600",
            RedisSettings(
                addresses=(("h", 6379),),
                prefix="talk",
                replicas=2,
                lease_seconds=0.1,
                connect_seconds=600,
            ),
        ),
        (
            "rediss://h?ca=/a.pem&cert=/c.pem&key=/k.pem",
            RedisSettings(
                addresses=(("h", 6379),), is_tls=True, ca="/a.pem", cert="/c.pem", key="/k.pem"
            ),
        ),
    ],
)
def test_url_says_where_the_engine_is(url: str, said: RedisSettings) -> None:
    assert parse_url(url) == said


@pytest.mark.parametrize(
    ("url", "refusal"),
    [
        ("http://h", "not of the form"),
        ("redis:h", "not of the form"),
        ("redis://", "names no host"),
        ("redis://h:x", "'h:x' is not of the form HOST:PORT"),
        ("redis://h/one", "the database: 'one' is not a number"),
        ("redis://h/-1", "database: -1 is not from 0"),
        ("redis://h?db=1", "unknown option 'db'"),
        ("redis://h?prefx=1", "unknown option 'prefx': there are ca, cert, connect_seconds, key"),
        ("redis://h?replicas=many", "replicas: 'many' is not a number"),
        ("redis://h?replicas=101", "replicas: 101 is not from 0 to 100"),
        ("redis://h?lease_seconds=0.09", "lease_seconds: 0.09 is not from 0.1 to 3600"),
        ("redis://h?lease_seconds=nan", "lease_seconds: nan is not from"),
        ("redis://h?connect_seconds=601", "connect_seconds: 601 is not from"),
        ("redis://h?prefix=", "prefix: '' is no beginning"),
        ("redis://h?prefix={a}", "prefix: '{a}' is no beginning"),
        ("redis://h?prefix", "not a URL that can be read"),
        ("rediss://h?cert=/c.pem", "cert and key belong together"),
        ("redis://h?ca=/a.pem", "ca is for rediss"),
        ("redis://:a#b@h", "is written %23"),
        ("redis+unix://h/run/a.sock", "redis+unix:///PATH"),
        ("redis+unix://", "redis+unix:///PATH"),
        ("redis+sentinel://h", "redis+sentinel://HOST:PORT/SERVICE"),
        ("redis+sentinel://h/main?ca=/a.pem", "ca is for rediss"),
        ("redis+cluster://h/1", "the database: 1 is not 0, the only one of a Redis Cluster"),
        ("redis+cluster://h?db=0", "unknown option 'db'"),
        ("redis+cluster://h,", "names no host"),
        ("redis+cluster://h?prefix={a}", "prefix: '{a}' is no beginning"),
        ("rediss+unix:///run/a.sock", "not of the form"),
    ],
)
def test_what_is_wrong_with_a_url_is_named(url: str, refusal: str) -> None:
    """By the option's name, and without a password."""
    with pytest.raises(SettingsError) as caught:
        parse_url(url.replace("redis://h?", "redis://me:s3cret@h?"))
    assert refusal in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:s3cret/x@h/0",
        "redis://me:1/s3cret@h/0",
        "redis://:x@y/s3cret@h",
        "redis://me:x?s3cret=1@h",
        "redis://me:1?x&s3cret@h",
        "redis+sentinel://me:s3cret/x@h/main",
        "redis+cluster://me:s3cret/x@h",
    ],
)
def test_password_that_ends_the_host_is_not_shown(url: str) -> None:
    """A bug once seen: what stood before or behind the '/' was named as what is wrong."""
    with pytest.raises(SettingsError) as caught:
        parse_url(url)
    assert "not a URL that can be read" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_password_is_not_shown() -> None:
    assert "s3cret" not in repr(parse_url("redis://:s3cret@h"))


def test_all_keys_of_a_store_are_in_one_slot() -> None:
    """Their prefix is their tag: the first braces of a key are."""
    assert parse_url("redis+cluster://h?prefix=talk").key_prefix == "{talk}"
    assert parse_url("redis://h?prefix=talk").key_prefix == "talk"
