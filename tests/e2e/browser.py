"""A browser as people have it: Debian's Chromium without a window, driven by playwright."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page, async_playwright

from tests.support.hub import HubProcess

CHROMIUM = "/usr/bin/chromium"
DEADLINE_MS = 30_000
"""How long a page may take to show something, on a busy machine."""


@asynccontextmanager
async def chromium(*arguments: str) -> AsyncIterator[Browser]:
    """A browser in a process of its own.

    Args:
        arguments: More arguments for it.
    """
    # Its sandbox refuses to be root's.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*sandbox, *arguments]
        )
        yield browser
        await browser.close()


async def open_html(page: Page, origin: str, html: str) -> None:
    """Shows some content as a page of the hub's host.

    Args:
        page: Where.
        origin: The hub's address, which becomes the page's origin.
        html: The page.
    """
    page.set_default_timeout(DEADLINE_MS)
    # A page that the hub really serves: what is only made up, Chromium takes for a page from the
    # internet, and lets it talk to no address on this machine.
    await page.goto(f"{origin}/livez")
    await page.set_content(html)


def restart(hub: HubProcess) -> None:
    """Kills a hub and starts it again over the same data and on the same ports."""
    hub.kill()
    hub.settings |= {"PORT": str(hub.port), "GRPC_PORT": str(hub.grpc_port)}
    hub.start()
