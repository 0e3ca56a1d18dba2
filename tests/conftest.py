"""What holds for all tests."""

from __future__ import annotations

import asyncio

# Otherwise the default policy makes an event loop for the main thread when pytest-asyncio asks which one is current,
# and nobody closes it: a warning, and so an error, in whatever test the collector runs.
asyncio.set_event_loop(None)
