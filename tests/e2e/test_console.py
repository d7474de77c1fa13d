"""The console in a real browser, of a real hub."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, ViewportSize, WebSocketRoute, expect

from switchboard.v1.connect_pb2 import ConnectRequest
from switchboard.v1.realtime_service_pb2 import BroadcastRequest, ListRoomsRequest
from switchboard.v1.realtime_service_pb2_grpc import RealtimeServiceStub
from switchboard.v1.registry_service_pb2 import (
    DeregisterRequest,
    RegisterRequest,
    SetStatusRequest,
)
from switchboard.v1.registry_service_pb2_grpc import RegistryServiceStub
from switchboard.v1.service_instance_pb2 import INSTANCE_STATUS_DRAINING, ServiceInstance
from tests.e2e.browser import DEADLINE_MS, chromium, restart
from tests.integration.client import Client, an_event
from tests.integration.credentials import SECRET, mint, token
from tests.integration.hubs import connect
from tests.support.hub import HubProcess

expect.set_options(timeout=DEADLINE_MS)

DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 740}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub") as started:
        yield started
        assert "Traceback" not in started.text


@pytest.fixture
async def client(hub: HubProcess) -> AsyncIterator[Client]:
    async with connect(hub) as client:
        yield client


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


async def open_console(browser: Browser, hub: HubProcess, size: ViewportSize = DESKTOP) -> Page:
    context = await browser.new_context(viewport=size)
    page = await context.new_page()
    page.set_default_timeout(DEADLINE_MS)
    # What a content policy forbids, and every other mishap, is told here.
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    await page.goto(f"http://127.0.0.1:{hub.port}/")
    return page


async def connected(page: Page) -> None:
    await expect(page.locator("#link")).to_contain_text("Connected as")


async def test_it_shows_the_event_just_published(
    hub: HubProcess, client: Client, browser: Browser
) -> None:
    await client.publish(an_event("order.earlier"))
    page = await open_console(browser, hub)
    rows = page.locator("#tail > li")
    await expect(rows).to_have_count(1)
    event = an_event("order.created", "shop", target_service="billing")
    event.data.update({"order": 42, "note": "<img src=x onerror=alert(1)>"})
    answer = await client.publish(event)
    await expect(rows).to_have_count(2)
    row = rows.first
    for text in ("order.created", "shop → billing", '"order":42', str(answer.sequence)):
        await expect(row).to_contain_text(text)
    await row.locator("summary").click()
    shown = json.loads(await row.locator("pre").inner_text())
    assert shown["data"] == {"order": 42, "note": "<img src=x onerror=alert(1)>"}
    assert await page.locator("#tail img").count() == 0


async def test_a_filter_that_is_set_twice_at_once_shows_each_event_once(
    hub: HubProcess, client: Client, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    await connected(page)
    await client.publish(an_event("order.created"))
    await page.get_by_label("Types").fill("order.*")
    await page.locator("#filter").evaluate(
        "form => { form.requestSubmit(); form.requestSubmit(); }"
    )
    rows = page.locator("#tail > li .type")
    await expect(rows).to_have_text(["order.created"])
    await client.publish(an_event("order.paid"))
    await client.publish(an_event("order.sent"))
    await expect(rows.first).to_have_text("order.sent")
    await expect(rows).to_have_text(["order.sent", "order.paid", "order.created"])


async def test_its_tail_is_filtered_paused_and_cleared(
    hub: HubProcess, client: Client, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    await connected(page)
    await page.get_by_label("Types").fill("order.*, user_action")
    await page.get_by_label("Types").press("Enter")
    rows = page.locator("#tail > li .type")
    for kind in ("order.created", "invoice.sent", "user_action"):
        await client.publish(an_event(kind))
    await expect(rows).to_have_text(["user_action", "order.created"])
    await page.get_by_role("button", name="Pause").click()
    await client.publish(an_event("order.paid"))
    await expect(page.locator("#tail-note")).to_contain_text("1 held back")
    await expect(rows).to_have_count(2)
    await page.get_by_role("button", name="Resume").click()
    await expect(rows).to_have_text(["order.paid", "user_action", "order.created"])
    await page.get_by_role("button", name="Clear").click()
    await expect(rows).to_have_count(0)
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_label("Types").fill("invoice.*")
    await page.get_by_label("Types").press("Enter")
    # What is asked for now is not held back.
    await expect(rows).to_have_text(["invoice.sent"])
    await expect(page.get_by_role("button", name="Pause")).to_be_visible()


async def test_it_shows_rooms_and_connections_and_sends_to_them(
    hub: HubProcess, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    await connected(page)
    async with hub.channel() as channel:
        realtime = RealtimeServiceStub(channel)
        request = ConnectRequest(client_id="worker-1", user="ann")
        request.rooms.add(room="general")
        stream = realtime.Connect(request)
        room = page.locator("#rooms > li", has_text="general")
        await expect(room).to_contain_text("1 connection · 1 user")
        await room.locator("summary").click()
        await expect(room.locator(".members")).to_contain_text("worker-1")
        await expect(page.locator("#connections > li", has_text="worker-1")).to_contain_text("gRPC")

        await page.locator("#send-to").select_option("a room")
        await page.get_by_label("Name").fill("general")
        await page.get_by_label("Data, as a JSON object").fill('{"title": "Hello"}')
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#send-note")).to_have_text("Handed to 1 connection.")
        async for response in stream:
            if response.messages:
                break
        (message,) = response.messages
        assert message.message_type == "notification"
        assert dict(message.data) == {"title": "Hello"}

        await page.get_by_label("Data, as a JSON object").fill("[1]")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("alert")).to_contain_text("JSON object")
        stream.cancel()
    await expect(room).to_have_count(0)


async def test_it_shows_registered_services_with_their_instances(
    hub: HubProcess, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    await connected(page)
    async with hub.channel() as channel:
        registry = RegistryServiceStub(channel)
        for port in (8010, 8011):
            instance = ServiceInstance(
                service_name="user-service", host="10.0.0.7", port=port, version="1.4.2"
            )
            await registry.Register(RegisterRequest(instance=instance))
        service = page.locator("#services > li", has_text="user-service")
        await expect(service.locator("summary")).to_contain_text("2 serving")
        await expect(service.locator("summary")).to_contain_text("1.4.2")
        await service.locator("summary").click()
        instances = service.locator(".members > li")
        await expect(instances).to_contain_text(["10.0.0.7:8010", "10.0.0.7:8011"])
        drained = SetStatusRequest(
            service_name="user-service",
            instance_id="10.0.0.7:8011",
            status=INSTANCE_STATUS_DRAINING,
            reason="deploy of 1.5",
        )
        await registry.SetStatus(drained)
        await expect(instances.nth(1)).to_contain_text("draining")
        await expect(instances.nth(1)).to_contain_text("deploy of 1.5, since ")
        await expect(page.locator("#tail > li").first).to_contain_text(
            "user-service 10.0.0.7:8011: serving → draining (deploy of 1.5)"
        )
        gone = DeregisterRequest(service_name="user-service", instance_id="10.0.0.7:8010")
        await registry.Deregister(gone)
        await expect(service.locator(".members > li")).to_have_count(1)


async def test_where_there_is_nothing_yet_it_says_what_to_do(
    hub: HubProcess, client: Client, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    await connected(page)
    empty = page.locator("#tail-empty")
    await expect(empty).to_contain_text("switchboard.v1.EventService/Publish")
    await expect(page.locator("#services-empty")).to_contain_text("RegistryService/Register")
    await expect(page.locator("#rooms-empty")).to_contain_text('hub.room("general").join()')
    await empty.get_by_role("button", name="write one here").click()
    await page.keyboard.type('{"order": 7}')
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#send-note")).to_have_text("Stored as 1.")
    await expect(page.locator("#tail > li")).to_contain_text(["order.created"])
    await expect(empty).to_be_hidden()
    (event,) = (await client.list_events()).events
    assert (event.type, event.source_service, dict(event.data)) == (
        "order.created",
        "console",
        {"order": 7},
    )


async def test_what_is_not_sent_says_why_and_where_that_is_seen(
    hub: HubProcess, browser: Browser
) -> None:
    page = await open_console(browser, hub, PHONE)
    await connected(page)
    await page.get_by_text("Event", exact=True).click()
    await page.get_by_label("Event type").fill("order.*")
    await page.get_by_role("button", name="Send").click()
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("event.type")
    await expect(alert).to_be_in_viewport()
    await page.get_by_label("Data, as a JSON object").fill('{"a": ')
    await page.get_by_role("button", name="Send").click()
    await expect(alert).to_contain_text("the data are not JSON")


async def test_its_filter_is_narrowed_from_an_event_and_outlives_a_reload(
    hub: HubProcess, client: Client, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    await connected(page)
    for kind, source in (("order.created", "shop"), ("order.paid", "shop"), ("ping", "cron")):
        await client.publish(an_event(kind, source))
    rows = page.locator("#tail > li .type")
    await expect(rows).to_have_text(["ping", "order.paid", "order.created"])
    await rows.nth(1).click()
    await page.get_by_role("button", name="Only from shop").click()
    await expect(rows).to_have_text(["order.paid", "order.created"])
    await page.reload()
    await expect(rows).to_have_text(["order.paid", "order.created"])
    await page.get_by_label("Sources").fill("nobody")
    await page.get_by_label("Sources").press("Enter")
    await page.get_by_role("button", name="Show all events").click()
    await expect(rows).to_have_count(3)
    assert page.url.endswith(f":{hub.port}/")


async def test_keys_go_to_all_that_matters(
    hub: HubProcess, client: Client, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    await connected(page)
    for kind in ("first", "second"):
        await client.publish(an_event(kind))
    await expect(page.locator("#tail > li")).to_have_count(2)
    focus = page.locator(":focus")
    await page.keyboard.press("j")
    await expect(focus).to_contain_text("second")
    await page.keyboard.press("j")
    await expect(focus).to_contain_text("first")
    await page.keyboard.press("Enter")
    await page.locator("#tail pre").wait_for()
    await page.keyboard.press("k")
    await expect(focus).to_contain_text("second")
    await page.keyboard.press("p")
    await expect(page.get_by_role("button", name="Resume")).to_be_visible()
    await page.keyboard.press("/")
    await page.keyboard.type("p/j?")
    await expect(page.get_by_label("Types")).to_have_value("p/j?")
    await page.keyboard.press("Escape")
    await focus.blur()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    # The browser gives the focus back to where it was before.
    await expect(page.locator("#keys-dialog :focus")).to_have_count(0)
    await page.keyboard.press("m")
    await expect(page.get_by_label("Data, as a JSON object")).to_be_focused()


async def test_it_comes_back_after_the_hub_was_killed_and_goes_on(
    hub: HubProcess, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    await connected(page)
    async with connect(hub) as client:
        await client.publish(an_event("order.before"))
    rows = page.locator("#tail > li .type")
    await expect(rows).to_have_text(["order.before"])
    hub.kill()
    await expect(page.locator("#link")).to_contain_text("Reconnecting")
    restart(hub)
    await connected(page)
    async with connect(hub) as client:
        await client.publish(an_event("order.after"))
    await expect(rows).to_have_text(["order.after", "order.before"])
    hub.terminate()
    await expect(page.locator("#link")).to_contain_text("Reconnecting")
    restart(hub)
    await connected(page)
    await expect(page.get_by_role("alert")).to_be_hidden()


async def test_what_could_not_be_listed_for_a_while_is_listed_again(
    hub: HubProcess, browser: Browser
) -> None:
    away = True

    def between(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def passed_on(message: str | bytes) -> None:
            frame = json.loads(message)
            if away and frame["type"] == "list" and frame["data"]["what"] == "rooms":
                problem = {"code": "UNAVAILABLE", "reason": "REALTIME_UNAVAILABLE"}
                text = {"type": "error", "id": frame["id"], "message": "they are away", **problem}
                route.send(json.dumps(text))
            else:
                server.send(message)

        route.on_message(passed_on)

    page = await browser.new_page()
    await page.route_web_socket("**/ws/*", between)
    await page.goto(f"http://127.0.0.1:{hub.port}/")
    rooms = page.locator("#rooms-empty")
    await expect(rooms).to_contain_text("they are away")
    await expect(rooms.locator(".command")).to_be_hidden()
    away = False
    await expect(rooms).to_contain_text('hub.room("general").join()')
    await expect(rooms).not_to_contain_text("they are away")


async def test_it_asks_for_another_token_when_its_own_has_expired(
    tmp_path: Path, browser: Browser
) -> None:
    with HubProcess(tmp_path / "hub", {"JWT_SECRET_KEY": SECRET}) as hub:
        page = await open_console(browser, hub)
        await page.get_by_label("JSON Web Token").fill(token("rooms.join", seconds=4))
        await page.get_by_role("button", name="Connect").click()
        await connected(page)
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("expires within a minute")
        await page.get_by_label("JSON Web Token").fill("half of a token")
        await expect(dialog).to_contain_text("has expired")
        await expect(page.get_by_label("JSON Web Token")).to_have_value("half of a token")
        await expect(page.locator("#link")).to_have_text("Token expired")
        await page.get_by_label("JSON Web Token").fill(token("rooms.join"))
        await page.get_by_role("button", name="Connect").click()
        await connected(page)


async def test_it_asks_for_a_token_where_the_hub_wants_one(
    tmp_path: Path, browser: Browser
) -> None:
    with HubProcess(tmp_path / "hub", {"JWT_SECRET_KEY": SECRET}) as hub:
        page = await open_console(browser, hub)
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("asks for a token")
        await page.get_by_label("JSON Web Token").fill("not.a.token")
        await page.get_by_role("button", name="Connect").click()
        await expect(dialog).to_contain_text("does not take this token")
        permissions = ("rooms.join", "messaging.view", "events.subscribe", "events.view")
        made = mint(tmp_path, {"JWT_SECRET_KEY": SECRET}, "ann", *permissions)
        await page.get_by_label("JSON Web Token").fill(made)
        await page.get_by_role("button", name="Connect").click()
        await expect(page.locator("#link")).to_have_text("Connected as ann")
        # What a token does not allow is told where it would be, and is no alarm.
        await expect(page.locator("#services-empty")).to_contain_text("it lacks services.view")
        await expect(page.get_by_role("alert")).to_be_hidden()
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("alert")).to_contain_text("PERMISSION_DENIED")
        await page.reload()
        await expect(page.locator("#link")).to_have_text("Connected as ann")
        await page.get_by_role("button", name="Token").click()
        made = mint(tmp_path, {"JWT_SECRET_KEY": SECRET}, "ben", "rooms.join")
        await page.get_by_label("JSON Web Token").fill(made)
        await page.get_by_role("button", name="Connect").click()
        await expect(page.locator("#link")).to_have_text("Connected as ben")
        await expect(page.locator("#tail-empty")).to_contain_text("it lacks events.subscribe")
        await expect(page.locator("#tail-none")).to_be_hidden()
        await expect(page.get_by_role("alert")).to_be_hidden()


async def test_its_commands_name_the_port_that_the_hub_has_for_grpc(
    hub: HubProcess, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    for place in ("publish", "register"):
        command = page.locator(f"#{place}-command pre")
        await expect(command).to_contain_text(f"127.0.0.1:{hub.grpc_port} switchboard.v1.")


async def test_titles_are_not_cut_and_a_long_name_stands_beside_its_chevron(
    hub: HubProcess, browser: Browser
) -> None:
    async with hub.channel() as channel:
        request = ConnectRequest(client_id="a service")
        request.rooms.add(room="a-room-" + "with-a-long-name-" * 5)
        request.rooms.add(room="short")
        realtime = RealtimeServiceStub(channel)
        stream = realtime.Connect(request)
        await stream.read()
        # A call that is over, so that there is a chart of them.
        await realtime.ListRooms(ListRoomsRequest())
        for size in (DESKTOP, PHONE):
            page = await open_console(browser, hub, size)
            # Rates come with the second look.
            titles = page.locator(".charts li:not([hidden]) .title")
            await expect(titles.filter(has_text="gRPC calls")).to_be_visible()
            cut = "all => all.filter((each) => each.scrollWidth > each.clientWidth).length"
            assert await titles.evaluate_all(cut) == 0
            names = page.locator("#rooms summary .name")
            await expect(names).to_have_count(2)
            tops = """all => all.map((each) => each.getBoundingClientRect().top
                - each.parentElement.getBoundingClientRect().top)"""
            long, short = await names.evaluate_all(tops)
            assert long == short
        stream.cancel()


async def test_it_fits_a_phone_and_is_worked_by_keyboard(
    hub: HubProcess, client: Client, browser: Browser
) -> None:
    page = await open_console(browser, hub, PHONE)
    await connected(page)
    event = an_event("a-rather-long-type." * 8, "a-rather-long-source-name." * 6)
    event.data.update({"text": "long " * 400})
    await client.publish(event)
    await page.locator("#tail summary").click()
    await page.locator("#tail pre").wait_for()
    assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    await page.reload()
    await connected(page)
    await page.keyboard.press("Tab")
    await expect(page.locator(":focus")).to_have_text("Skip to the events")
    await page.keyboard.press("Enter")
    for name in ("Pause", "Clear"):
        await page.keyboard.press("Tab")
        await expect(page.locator(":focus")).to_have_text(name)


async def test_its_colours_follow_the_system_or_a_choice_that_is_kept(
    hub: HubProcess, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    background = "getComputedStyle(document.body).backgroundColor"
    await page.emulate_media(color_scheme="light")
    light = await page.evaluate(background)
    await page.emulate_media(color_scheme="dark")
    dark = await page.evaluate(background)
    assert light != dark
    theme = page.get_by_role("button", name="Colours")
    await theme.click()
    assert await page.evaluate(background) == light
    await page.reload()
    await expect(theme).to_have_text("Light")
    assert await page.evaluate(background) == light


async def test_its_charts_are_drawn_from_the_metrics(
    hub: HubProcess, client: Client, browser: Browser
) -> None:
    page = await open_console(browser, hub)
    await connected(page)
    await client.publish_batch([an_event() for _ in range(10)])
    chart = page.locator("#charts > li", has_text="In the log")
    await expect(chart.locator(".value")).to_have_text("10")
    assert await chart.locator("polyline").get_attribute("points")
    async with hub.channel() as channel:
        await RealtimeServiceStub(channel).Broadcast(BroadcastRequest(message_type="x", all=True))
    await expect(page.locator("#health")).to_contain_text("Serving")
