"""The file of users: read when the router starts and again whenever it changes, so that nothing has to be restarted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from .acl import AclError, parse
from .core import Router
from .users import engine_commands

log = logging.getLogger("cachecluster.router")

LOOK_S = 1.0
"""How often it is looked at: a kubelet changes it by a link that it turns over."""
MOST_BYTES = 1 << 20

Tell = Callable[[bool, str], None]
"""Is told whether anybody is known, and why users are not as the file says (empty: they are)."""


class UsersFile:
    """Gives a router the users of a file. What cannot be understood, or is gone, changes nothing; at the start it lets
    nobody in."""

    def __init__(self, path: Path, router: Router, tell: Tell) -> None:
        self._path = path
        self._router = router
        self._tell = tell
        self._seen: bytes | None = None
        self._known = False
        self._trouble = ""

    def look(self) -> None:
        """Take over what stands there now, if that is something else than before."""
        try:
            with self._path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        except OSError as error:
            self._seen = None
            self._keep(f"no users can be read ({error.strerror})")
            return
        if content == self._seen:
            return
        self._seen = content
        try:
            if len(content) > MOST_BYTES:
                raise AclError(f"it is longer than {MOST_BYTES} bytes")
            self._take_over(content.decode())
        except UnicodeDecodeError as error:
            self._keep(f"byte {error.start} is no UTF-8")
        except AclError as error:
            self._keep(str(error))
        except Exception:  # whatever it is, the users that are known stay
            log.exception("%s", self._path)
            self._keep("it cannot be taken over: see the log of the router")

    def _take_over(self, text: str) -> None:
        assert self._router.routes is not None
        users = parse(text, engine_commands(str(self._router.routes["settings"]["engine"])))
        self._router.use_users(users)
        self._known, self._trouble = True, ""
        log.info("%s: %d users", self._path, len(users))
        self._tell(True, "")

    def _keep(self, why: str) -> None:
        """Go on with the users that are known; before there are any, nobody is let in."""
        trouble = f"{why}; {'users stay as they were' if self._known else 'nobody may log in'}"
        if trouble == self._trouble:
            return
        self._trouble = trouble
        log.error("%s: %s", self._path, trouble)
        if not self._known:
            self._router.use_users({})
        self._tell(self._known, trouble)

    async def follow(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()
