"""Pages in a real browser: the seed's snippet, and a chat that outlives its hub."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Error, Page

from switchboard.v1.realtime_service_pb2 import BroadcastRequest
from switchboard.v1.realtime_service_pb2_grpc import RealtimeServiceStub
from tests.e2e.browser import DEADLINE_MS, chromium, open_html, restart
from tests.support.hub import HubProcess

SNIPPET = """
// 连接WebSocket
const ws = new WebSocket('ws://localhost:8008/ws/client123');

ws.onopen = () => {
// 发送消息
ws.send(JSON.stringify({
  type: 'chat',
  data: {
    message: 'Hello, world!',
    room: 'general'
  }
}));
};

// 接收消息
ws.onmessage = (event) => {
  const message = JSON.parse(event.data);
  console.log('收到消息:', message);
};
"""
"""As the first description of the project has it, but for `send`, which waits for `onopen`."""

CHAT = """<!doctype html>
<meta charset="utf-8">
<ol id="said"></ol>
<script type="module">
  import { Switchboard } from "/switchboard.js";

  const hub = new Switchboard("/", { clientId: NAME });
  const room = hub.room("general");
  const said = document.getElementById("said");
  room.addEventListener("message", ({ detail }) => {
    const line = document.createElement("li");
    line.textContent = detail.data.message;
    said.append(line);
  });
  let joins = 0;
  room.addEventListener("joined", () => document.body.setAttribute("data-joins", ++joins));
  hub.addEventListener("close", () => document.body.setAttribute("data-state", "away"));
  window.say = (message) => room.send("chat", { message }, { timeoutMs: 60000 });
  await hub.connect();
  await room.join();
</script>
"""
EACH = 20
"""Messages of each who speaks, before the break and after it."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub") as started:
        yield started
        assert "Traceback" not in started.text


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


async def test_the_first_snippet_prints_its_own_message(hub: HubProcess) -> None:
    # The snippet names port 8008; the browser is told that the hub is there.
    rules = f"--host-resolver-rules=MAP localhost:8008 127.0.0.1:{hub.port}"
    async with chromium(rules) as browser:
        page = await browser.new_page()
        printed: asyncio.Queue[ConsoleMessage] = asyncio.Queue()
        # Chromium itself says that it misses an icon.
        page.on("console", lambda line: printed.put_nowait(line) if line.type == "log" else None)
        html = f"<!doctype html><meta charset=utf-8><script>{SNIPPET}</script>"
        await open_html(page, "http://localhost:8008", html)
        async with asyncio.timeout(DEADLINE_MS / 1000):
            while True:
                line = await printed.get()
                assert line.text.startswith("收到消息:")
                message = await line.args[1].json_value()
                if message["type"] == "chat":
                    break
    assert message["data"] == {"message": "Hello, world!", "room": "general"}
    assert message["sender_client_id"] == "client123"


async def tab(browser: Browser, hub: HubProcess, name: str) -> Page:
    """A tab that stands in the room."""
    page = await browser.new_page()
    html = CHAT.replace("NAME", f"'{name}'")
    await open_html(page, f"http://127.0.0.1:{hub.port}", html)
    await page.locator("body[data-joins='1']").wait_for(state="attached")
    return page


async def said(page: Page, count: int) -> list[str]:
    """All that a tab shows, once it is so many lines."""
    await page.locator(f"#said li:nth-child({count})").wait_for()
    return await page.locator("#said li").all_text_contents()


async def say(page: Page, message: str) -> Any:
    return await page.evaluate("message => window.say(message)", message)


async def test_two_tabs_and_a_grpc_client_chat_on_after_the_hub_was_killed(
    hub: HubProcess, browser: Browser
) -> None:
    tabs = [await tab(browser, hub, "one"), await tab(browser, hub, "two")]

    async def speak(name: str, page: Page, part: str) -> list[str]:
        texts = [f"{part} {name} {number}" for number in range(EACH)]
        for text in texts:
            assert (await say(page, text))["connections"] == len(tabs)
        return texts

    async def broadcast(part: str) -> list[str]:
        texts = [f"{part} grpc {number}" for number in range(EACH)]
        async with hub.channel() as channel:
            realtime = RealtimeServiceStub(channel)
            for text in texts:
                request = BroadcastRequest(message_type="chat", rooms=["general"])
                request.data.update({"message": text})
                answer = await realtime.Broadcast(request)
                assert answer.connections == len(tabs)
        return texts

    async def everybody(part: str) -> tuple[list[str], ...]:
        """All speak at once; each gets an answer to every message."""
        return await asyncio.gather(
            speak("one", tabs[0], part), speak("two", tabs[1], part), broadcast(part)
        )

    spoken = await everybody("before")
    await asyncio.gather(*(said(page, 3 * EACH) for page in tabs))
    await asyncio.to_thread(hub.kill)
    await asyncio.gather(*(page.locator("body[data-state=away]").wait_for() for page in tabs))
    # Said while nobody hears it: it waits for the connection.
    waiting = asyncio.create_task(say(tabs[0], "meanwhile"))
    await asyncio.to_thread(restart, hub)
    again = [page.locator("body[data-joins='2']") for page in tabs]
    await asyncio.gather(*(each.wait_for(state="attached") for each in again))
    meanwhile = await waiting
    spoken += await everybody("after")

    counts = [1, meanwhile["connections"] - 1]
    for page, heard in zip(tabs, counts, strict=True):
        lines = await said(page, 6 * EACH + heard)
        assert len(lines) == 6 * EACH + heard
        assert lines.count("meanwhile") == heard
        # Each once, and those of one speaker in order.
        for texts in spoken:
            assert [line for line in lines if line in set(texts)] == texts


async def test_a_page_of_another_origin_that_is_listed_imports_the_module_and_connects(
    hub: HubProcess, tmp_path: Path, browser: Browser
) -> None:
    settings = {"SWITCHBOARD_ALLOWED_ORIGINS": f"http://127.0.0.1:{hub.port}"}
    come = "async (url) => new (await import(url + '/switchboard.js')).Switchboard(url).connect()"
    with HubProcess(tmp_path / "open", settings) as other:
        page = await browser.new_page()
        await open_html(page, f"http://127.0.0.1:{hub.port}", "<!doctype html>")
        await page.evaluate(come, f"http://127.0.0.1:{other.port}")
        await open_html(page, f"http://127.0.0.1:{other.port}", "<!doctype html>")
        with pytest.raises(Error, match="dynamically imported module"):
            await page.evaluate(come, f"http://127.0.0.1:{hub.port}")


async def test_a_page_whose_browser_is_online_again_does_not_wait_for_its_turn(
    hub: HubProcess, browser: Browser
) -> None:
    page = await browser.new_page()
    await open_html(page, f"http://127.0.0.1:{hub.port}", "<!doctype html>")
    await page.evaluate(
        """async () => {
            Math.random = () => 1;
            const { Switchboard } = await import("/switchboard.js");
            window.hub = new Switchboard("/", { minBackoffMs: 3600000, maxBackoffMs: 3600000 });
            await window.hub.connect();
            window.away = new Promise((done) => window.hub.addEventListener("close", done));
        }"""
    )
    await page.context.set_offline(True)
    await asyncio.to_thread(restart, hub)
    await page.evaluate("async () => void (await window.away)")
    await page.context.set_offline(False)
    await page.wait_for_function("() => window.hub.state === 'open'")
