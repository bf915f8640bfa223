"""What this process is to the engine: its name, and what it knows the engine to hold."""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from ...core.errors import RewoundError, StoreError
from .cluster_scripts import CLUSTER_SCRIPTS
from .errors import AwayError
from .scripts import ESTABLISH, SCRIPTS, TOUCH, VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...core.log import Position
    from .connection import Ask, Command, Engine
    from .settings import RedisSettings

__all__ = ["Node"]

log = logging.getLogger("trialogue.stores.redis")

#: Streams' ids, scripts and sets as they are used came with this one.
OLDEST: Final = 7
#: Sessions whose last position is remembered, to notice an engine that went back: the newest.
MOST_KNOWN: Final = 100_000
#: What a node is told stays for so many leases: a node that is alive reads it sooner.
MAIL_LEASES: Final = 10


class Node:
    """This process, and the engine as it has seen it last.

    Args:
        settings: Of the store.
        must_exist: Begin no new one.

    Attributes:
        name: What this process is called.
        holder: Likewise, where it has the right to write.
        epoch: What the engine's data is called; another one after they were lost.
        engine: What the engine calls itself; another one after a restart or a failover.
        rewinds: How often it had lost something.
    """

    def __init__(self, settings: RedisSettings, *, must_exist: bool = False) -> None:
        self.settings = settings
        self._must_exist = must_exist
        self.name = self.holder = secrets.token_hex(8)
        self._renames = 0
        self.epoch = ""
        self.engine = ""
        self.rewinds = 0
        self._known: OrderedDict[str, tuple[str, Position]] = OrderedDict()

    def mail_key(self, name: str) -> bytes:
        """Give the key of what a node is told."""
        return f"{self.settings.key_prefix}:mail:{name}".encode()

    @property
    def lease_ms(self) -> int:
        """How long a lease lasts, and the grave of a session."""
        return round(1000 * self.settings.lease_seconds)

    @property
    def mail_ms(self) -> int:
        """How long mail stays that nobody reads."""
        return MAIL_LEASES * self.lease_ms

    @property
    def block_ms(self) -> int:
        """How long a read waits for something."""
        return max(1, round(1000 * self.settings.answer_seconds))

    # -- the engine --------------------------------------------------------------------------

    async def greet(self, ask: Ask) -> None:
        """Look at the engine behind a new connection, and tell it of this process.

        Raises:
            StoreError: It is none that a store can be in.
        """
        self._look(_read_info(await ask(b"INFO")))
        await self.load_scripts(ask)
        await self.establish(ask)

    async def load_scripts(self, ask: Ask) -> None:
        """Give the engine the scripts: it forgets them with each start."""
        scripts = (*SCRIPTS, *CLUSTER_SCRIPTS)
        known = await ask(b"SCRIPT EXISTS", *(script.sha for script in scripts))
        for script, is_known in zip(scripts, known, strict=True):
            if not is_known:
                await ask(b"SCRIPT LOAD", script.text)

    def _look(self, info: dict[str, str]) -> None:
        if "sentinel" in (info.get("redis_mode"), info.get("server_mode")):
            raise StoreError("it is a sentinel: it is said as redis+sentinel://HOST:PORT/SERVICE")
        if info.get("role") != "master":
            raise AwayError("the engine is a replica")
        if info.get("cluster_enabled") == "1" and not self.settings.by_slot:
            raise StoreError("the engine is of a Redis Cluster: it is said as redis+cluster://")
        version = info.get("redis_version", "")
        if not version.partition(".")[0].isdigit() or int(version.partition(".")[0]) < OLDEST:
            raise StoreError(
                f"the engine is of version {version}, and has to be of {OLDEST} or later"
            )
        policy = info.get("maxmemory_policy", "")
        if info.get("maxmemory", "0") != "0" and policy.startswith("allkeys"):
            raise StoreError(
                f"the engine's maxmemory-policy {policy} removes sessions: it has to be noeviction"
            )
        engine = info.get("master_replid", "")
        if info.get("aof_enabled") == "0" and not self.engine:
            log.warning(
                "the engine keeps no append-only file: a restart takes back what came since its"
                " last snapshot",
                extra={"place": self.settings.place},
            )
        self._count_replicas(info)
        self.engine = engine

    def _count_replicas(self, info: dict[str, str]) -> None:
        wanted = self.settings.replicas
        online = sum(
            name.startswith("slave") and "state=online" in said.split(",")
            for name, said in info.items()
        )
        if online < wanted and not self.engine:
            log.warning(
                "the engine has too few replicas: nothing is acknowledged until there are more",
                extra={"place": self.settings.place, "replicas": wanted, "online": online},
            )

    async def establish(self, ask: Ask) -> None:
        """Find the data of before, or begin new ones.

        Raises:
            StoreError: They are of a later version, or there are none and there have to be.
        """
        store = f"{self.settings.key_prefix}:store".encode()
        if self._must_exist and not await ask(b"EXISTS", store):
            raise StoreError(f"there is no store {self.settings.prefix!r} in this engine")
        version, found = await ask(*ESTABLISH.call((store,), VERSION, secrets.token_hex(8)))
        if version != b"%d" % VERSION:
            raise StoreError(
                f"the sessions in the engine are of version {version.decode(errors='replace')}, and"
                f" this trialogue knows {VERSION}: use the newer trialogue that wrote them"
            )
        epoch = found.decode()
        if self.epoch and epoch != self.epoch:
            self.rewinds += 1
            log.error("the engine has lost all sessions", extra={"place": self.settings.place})
        self.epoch = epoch

    @property
    def probe_key(self) -> bytes:
        """A key that holds nothing: to write it is to see whether, and where, writing works."""
        return f"{self.settings.key_prefix}:probe".encode()

    async def ask_kept(self, engine: Engine, *command: Any) -> Any:
        """As `Engine.ask`, where the answer is to be shown: what no replica has may be lost yet."""
        (answer,) = await self.ask_all_kept(engine, [command])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask_all_kept(self, engine: Engine, commands: Sequence[Command]) -> list[Any]:
        """As `Engine.ask_all`; replicas that are waited for have what was written, and read.

        Raises:
            AwayError: They do not have it in time, or the engine does not answer.
        """
        replicas = self.settings.replicas
        if not replicas:
            return await engine.ask_all(commands)
        # What is waited for is the last write of this connection, and what was written by another
        # one, or an earlier one, is none of it.
        mark = TOUCH.call((self.probe_key,))
        wait = (b"WAIT", replicas, round(500 * self.settings.answer_seconds))
        *answers, marked, count = await engine.ask_all([*commands, mark, wait])
        if isinstance(marked, Exception) or isinstance(count, Exception) or count < replicas:
            raise AwayError(f"fewer than {replicas} replicas have it")
        return answers

    def rename(self) -> None:
        """Be another one from now on.

        What was sent and not answered may be carried out at any time: whoever writes next, of
        this process too, does so in a later term.
        """
        self._renames += 1
        self.holder = f"{self.name}.{self._renames}"

    # -- positions ---------------------------------------------------------------------------

    def know(self, session_id: str, life: str, position: Position) -> None:
        """Remember how far the engine has acknowledged a session."""
        self._known[session_id] = life, position
        self._known.move_to_end(session_id)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def recall(self, session_id: str) -> tuple[str, int, int]:
        """Give what is remembered: the session's life, and the term and seq that it had."""
        if session_id not in self._known:
            return "", 0, 0
        life, position = self._known[session_id]
        return life, position.term, position.seq

    def forget(self, session_id: str) -> None:
        """Remember nothing of a session."""
        self._known.pop(session_id, None)

    def rewound(self, session_id: str) -> RewoundError:
        """Make the exception for what was acknowledged, and is gone."""
        return RewoundError(f"the engine has lost what it had acknowledged of {session_id}")


def _read_info(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name: value for name, _, value in pairs}
