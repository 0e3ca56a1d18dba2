"""The file of users: read when the router starts and again whenever it changes, so that nothing has to be restarted."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from .acl import AclError, Commands, parse
from .core import Router
from .users import engine_commands

log = logging.getLogger("cachecluster.router")

LOOK_S = 1.0
"""How often it is looked at: a kubelet changes it by a link that it turns over."""
MOST_BYTES = 1 << 20


class UsersFile:
    """Gives a router the users of a file. What cannot be understood, or is gone, changes nothing; at the start it lets
    nobody in. Either is told as the router's `users_trouble`."""

    def __init__(self, path: Path, router: Router) -> None:
        self._path = path
        self._router = router
        self._text: str | None = None
        self._known = False

    def look(self) -> None:
        """Take over what stands there now, if that is something else than before."""
        try:
            with self._path.open("rb") as file:
                text = file.read(MOST_BYTES).decode(errors="replace")
        except OSError as error:
            self._keep(f"no users can be read ({error.strerror})")
            self._text = None
            return
        if text == self._text:
            return
        self._text = text
        try:
            users = parse(text, self._commands())
        except AclError as error:
            self._keep(str(error))
            return
        self._known = True
        self._router.use_users(users)
        log.info("%s: %d users", self._path, len(users))

    def _keep(self, why: str) -> None:
        """Go on with the users that are known; without any, with one that may not log in."""
        trouble = f"{why}; {'users stay as they were' if self._known else 'nobody may log in'}"
        if trouble == self._router.users_trouble:
            return
        log.error("%s: %s", self._path, trouble)
        if self._known:
            self._router.users_trouble = trouble
        else:
            self._router.use_users(parse("", self._commands()), trouble)

    def _commands(self) -> Commands:
        assert self._router.routes is not None
        return engine_commands(str(self._router.routes["settings"]["engine"]))

    async def follow(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()
