"""Sticky users: the guard says which bucket, and counts one request of each user."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy_targets.guard.sticky import SeenUsers
from deploy_targets.guard_policy import GuardPolicy, StickyPolicy
from deploy_targets.routing.buckets import BUCKET_HEADER, SPLIT_HEADER, bucket_of, digest_of
from tests.guard.redis_server import a_redis
from tests.guard.stub import COMPLETION, ENDPOINT, a_chat, served
from tests.guard.world import World

BY_USER = GuardPolicy(sticky=StickyPolicy(salt="s"))
BY_KEY = GuardPolicy(sticky=StickyPolicy(by="key"))
USER = "x-shipway-user"


def bucket(user: str, salt: str = "s") -> str:
    return f"{bucket_of(digest_of(user, endpoint=ENDPOINT, salt=salt)):02}"


class Split:
    """Answers as version 7, shared out among whom it is told."""

    def __init__(self) -> None:
        self.among = "6,7"
        self.status = 200
        self.version = "7"

    async def answer(self, request: Request) -> Response:
        await request.body()
        said = {"x-shipway-version": self.version, SPLIT_HEADER: self.among}
        headers = {name: value for name, value in said.items() if value}
        return JSONResponse(COMPLETION, status_code=self.status, headers=headers)


@pytest.fixture
def split() -> Split:
    return Split()


@pytest.fixture
def url(split: Split) -> Iterator[str]:
    with served() as serve:
        yield serve(Starlette(routes=[Route("/{path:path}", split.answer, methods=["POST"])]))


def test_the_bodys_user_goes_before_the_headers_and_gets_the_same_bucket_each_time(
    start_world: Callable[..., World],
) -> None:
    world = start_world(policy=BY_USER)
    for _ in range(2):
        world.post(a_chat(user="ann"), **{USER: "bob"})
    world.post(a_chat(), **{USER: "bob"})
    sent = [headers[BUCKET_HEADER] for headers in world.stub.headers]
    assert sent == [bucket("ann"), bucket("ann"), bucket("bob")]


def test_who_is_not_named_has_no_bucket_and_cannot_bring_one(
    start_world: Callable[..., World],
) -> None:
    world = start_world(policy=BY_USER)
    world.post(a_chat(user=""), **{BUCKET_HEADER: "03"})
    assert BUCKET_HEADER not in world.stub.headers[0]


def test_without_the_policy_nobody_has_a_bucket(world: World) -> None:
    world.post(a_chat(user="ann"), **{BUCKET_HEADER: "03"})
    assert BUCKET_HEADER not in world.stub.headers[0]


def test_by_key_the_name_of_the_key_counts_and_not_the_user(
    start_world: Callable[..., World],
) -> None:
    world = start_world(policy=BY_KEY)
    world.post(a_chat(user="ann"))
    assert world.stub.headers[0][BUCKET_HEADER] == bucket("owner", salt="")


def test_a_pin_goes_before_the_bucket(start_world: Callable[..., World]) -> None:
    world = start_world(policy=BY_USER)
    world.post(a_chat(user="ann"), **{"x-shipway-version": "7"})
    assert BUCKET_HEADER not in world.stub.headers[0]
    assert world.counted(route="pinned") == (1, 0)


def test_one_request_of_each_user_is_compared_and_the_others_are_counted_apart(
    start_world: Callable[..., World], url: str
) -> None:
    world = start_world(policy=BY_USER, upstream_url=url)
    for user in ("ann", "ann", "bob", "ann"):
        world.post(a_chat(user=user))
    assert world.counted() == (2, 0)
    assert world.counted(route="again") == (2, 0)


def test_who_has_no_name_is_compared_each_time(start_world: Callable[..., World], url: str) -> None:
    world = start_world(policy=BY_USER, upstream_url=url)
    for _ in range(2):
        world.post(a_chat())
    assert world.counted() == (2, 0)


def test_a_users_first_failure_counts_and_their_second_does_not(
    start_world: Callable[..., World], url: str, split: Split
) -> None:
    world = start_world(policy=BY_USER, upstream_url=url)
    split.status = 503
    for _ in range(3):
        world.post(a_chat(user="ann"))
    assert world.counted() == (1, 1)
    assert world.counted(route="again") == (2, 2)


def test_a_new_split_compares_everybody_anew_and_none_compares_each_request(
    start_world: Callable[..., World], url: str, split: Split
) -> None:
    world = start_world(policy=BY_USER, upstream_url=url)
    for among in ("6,7", "", "", "6,7", "7,8"):
        split.among = among
        world.post(a_chat(user="ann"))
    assert world.counted() == (5, 0)


def test_an_error_that_names_no_version_makes_nobody_start_anew(
    start_world: Callable[..., World], url: str, split: Split
) -> None:
    world = start_world(policy=BY_USER, upstream_url=url)
    world.post(a_chat(user="ann"))
    split.status, split.version, split.among = 503, "", ""
    world.post(a_chat(user="bob"))
    split.status, split.version, split.among = 200, "7", "6,7"
    world.post(a_chat(user="ann"))
    assert world.counted() == (1, 0)
    assert world.counted(route="again") == (1, 0)


def test_past_its_limit_nobody_new_is_compared_rather_than_somebody_twice() -> None:
    async def ask() -> list[bool]:
        seen = SeenUsers(endpoint="chat", redis_url=None, lost=lambda _: None, limit=2)
        return [await seen.is_first("6,7", user) for user in (b"a", b"b", b"c", b"a", b"c")]

    assert asyncio.run(ask()) == [True, True, False, False, False]


def test_several_guards_compare_a_user_once_and_forget_a_split_that_is_over() -> None:
    lost: list[str] = []

    async def ask(url: str) -> list[bool]:
        one, other, third = (
            SeenUsers(endpoint="chat", redis_url=url, lost=lost.append) for _ in range(3)
        )
        told = [await guard.is_first("6,7", b"a") for guard in (one, other, one)]
        assert await one.is_first("", b"a")
        told.append(await third.is_first("6,7", b"a"))
        for guard in (one, other, third):
            await guard.aclose()
        return told

    with a_redis() as server:
        assert asyncio.run(ask(server.url)) == [True, False, False, True]
    assert lost == []


def test_without_the_redis_that_it_needs_nobody_is_compared_and_that_is_told() -> None:
    lost: list[str] = []

    async def ask() -> list[bool]:
        seen = SeenUsers(endpoint="chat", redis_url="redis://127.0.0.1:1/0", lost=lost.append)
        told = [await seen.is_first("6,7", user) for user in (b"a", b"b")]
        await seen.aclose()
        return told

    assert asyncio.run(ask()) == [False, False]
    assert lost == ["users", "users"]
