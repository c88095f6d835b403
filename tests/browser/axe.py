"""axe-core, the accessibility checker: what of a page breaks WCAG 2.2 AA, in words."""

from functools import cache
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.sdk.npm_packages import MODULES

SCRIPT = MODULES / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

needs_axe = pytest.mark.skipif(not SCRIPT.exists(), reason="needs axe-core: make npm")


@cache
def _source() -> str:
    return SCRIPT.read_text()


def violations(page: Page) -> list[str]:
    """Each broken rule with the elements that break it; put into the page past its own policy."""
    page.evaluate(_source())
    found: Any = page.evaluate("tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", RULES)
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'][:120] for node in rule['nodes']]}"
        for rule in found["violations"]
    ]
