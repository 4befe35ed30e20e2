"""Packed feature rows in Redis: a hash per view, whose fields are (tenant, entity).

Each call is one script on the server, so it is atomic and one round trip. A stored row is itself a msgpack array of
its event time and its values: a read of many entities in many views comes back as one array of such rows, decoded at
once. All keys of a call are on one server; sharding over a Redis Cluster is not supported. Library: redis-py.
"""

import hashlib
import json
import os
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from raysaas.errors import ConfigError, Unavailable
from raysaas.stores.packing import Column, Packed, pack, unpack
from raysaas.stores.redis_scripts import EXTEND, GET, PUBLISH, PUT, RETIRE

Key = tuple[str, str]
_BASE = "raysaas:online:"
_ROW = b"\x92\xd3"  # a msgpack array of two, the first a 64-bit integer, whose bytes follow
_READ_AT_ONCE, _WRITE_AT_ONCE = 2_000, 1_000  # keys; Lua takes 8,000 arguments, and others wait while a script runs
_LOGIN = (redis.AuthenticationError, redis.exceptions.AuthorizationError, redis.exceptions.NoPermissionError)
_AWAY = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.OutOfMemoryError)
_REST_S = 1.0  # after a failure nobody waits for the server's timeout again before that


class RedisRows:
    """Rows of all views in the database at ``url``; methods as those of :class:`..online_sqlite.SqliteRows`.

    Connections are pooled and opened when needed, so that a server that comes back is used again. Options in the
    URL's query (``socket_timeout``, ``max_connections``) win over those here.
    """

    def __init__(self, url: str) -> None:
        self._place = _without_password(url)
        self._redis: Any = redis.Redis.from_url(
            url, socket_timeout=2.0, socket_connect_timeout=1.0, socket_keepalive=True, retry=Retry(NoBackoff(), 1)
        )
        scripts = (EXTEND, PUT, GET, PUBLISH, RETIRE)
        self._extend, self._put, self._get, self._publish, self._retire = map(self._script, scripts)
        self._idle: dict[int, deque[Any]] = defaultdict(deque)  # by process: a connection must not outlive a fork
        self._names: dict[str, tuple[int, list[str]]] = {}
        self._rest_until = 0.0

    def extend(self, view: str, names: Sequence[str]) -> tuple[int, list[str]]:
        """Make ``view`` if it is new, add the feature names that it lacks; its number and all names in their order."""
        number, every = self._extend(view, *names)
        return int(number), json.loads(every)

    def put(self, view: str, number: int, rows: Sequence[Packed]) -> bool:
        """Write rows; an older row never replaces a newer one. False when ``view`` has another number by now."""
        for start in range(0, len(rows), _WRITE_AT_ONCE):
            some = rows[start : start + _WRITE_AT_ONCE]
            fields = [_field(tenant, entity) for tenant, entity, _, _ in some]
            bodies = [_ROW + micros.to_bytes(8, signed=True) + body for _, _, micros, body in some]
            if not self._put(view, number, pack(fields), *bodies):
                return False
        return True

    def get(self, views: Sequence[str], keys: Sequence[Key]) -> list[Column]:
        """For each view its feature names, and event time and values of each key's row, None where there is none."""
        fields = [_field(*key) for key in keys]
        parts = [self._part(views, fields[i : i + _READ_AT_ONCE]) for i in range(0, len(fields), _READ_AT_ONCE)]
        if len(parts) == 1:
            return parts[0]
        return [
            Column(columns[0].names, *(list(chain.from_iterable(c[n] for c in columns)) for n in (1, 2)))
            for columns in zip(*parts, strict=True)
        ] or [Column([], [], []) for _ in views]

    def _part(self, views: Sequence[str], fields: Sequence[str]) -> list[Column]:
        columns = []
        for found in unpack(self._get(pack(fields), *views)):
            number, size, cells = found or ("", 0, [None] * len(fields))
            if None in cells:
                cells = [cell or (None, None) for cell in cells]
            times, values = zip(*cells, strict=True)
            columns.append(Column(self._known(number, size) if number else [], times, values))
        return columns

    def keys(self, view: str) -> list[Key]:
        """Every (tenant, entity) of a view, sorted."""
        with self._answering():
            return sorted(_key(field) for field, _ in self._redis.hscan_iter(self._rows(view), count=1000))

    def count(self, view: str) -> int:
        """Number of rows in a view."""
        with self._answering():
            return int(self._redis.hlen(self._rows(view)))

    def drop(self, view: str) -> None:
        """Forget a view's name, and its rows unless another name points at them."""
        self._retire(1, view)

    def publish(self, pointers: Mapping[str, str], records: Mapping[str, str]) -> None:
        """At once: point each name at the rows of another, which exist, and keep ``records``."""
        self._publish(2 * len(pointers), *_flat(pointers), *_flat(records))

    def retire(self, views: Sequence[str], records: Sequence[str]) -> None:
        """At once: forget views and records."""
        self._retire(len(views), *views, *records)

    def views(self) -> list[str]:
        """Names of all views, sorted."""
        with self._answering():
            return sorted(name.decode() for name in self._redis.hkeys(f"{_BASE}views"))

    def records(self) -> dict[str, str]:
        """Everything that :meth:`publish` keeps."""
        with self._answering():
            return {name.decode(): body.decode() for name, body in self._redis.hgetall(f"{_BASE}records").items()}

    def forget(self, tenant: str, entity: str | None, prefix: str = "") -> int:
        """Delete the rows of a tenant, or of one of its entities, in views whose names begin so; returns how many."""
        with self._answering():
            views = self._redis.hgetall(f"{_BASE}views").items()
            numbers = {number.decode() for name, number in views if name.decode().startswith(prefix)}
            places = [f"{_BASE}rows:{number}" for number in numbers]
            if entity is not None:
                return sum(int(self._redis.hdel(place, _field(tenant, entity))) for place in places)
            match = re.sub(r"([\\*?\[\]])", r"\\\1", _field(tenant, "")) + "*"
            count = 0
            for place in places:
                fields = [field for field, _ in self._redis.hscan_iter(place, match=match, count=1000)]
                count += int(self._redis.hdel(place, *fields)) if fields else 0
            return count

    def close(self) -> None:
        """Close all connections; another call opens new ones."""
        self._redis.close()

    def _rows(self, view: str) -> str:
        return f"{_BASE}rows:{(self._redis.hget(f'{_BASE}views', view) or b'').decode()}"

    def _known(self, number: str, size: int) -> list[str]:
        """Names of a view; their text only grows, so that its size tells whether they are those known here."""
        if self._names.get(number, (0, []))[0] != size:
            with self._answering():
                text = self._redis.hget(f"{_BASE}names", number) or b"[]"
            self._names[number] = (len(text), json.loads(text))
        return self._names[number][1]

    def _script(self, text: str) -> Callable[..., Any]:
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

        def call(*arguments: Any) -> Any:
            try:
                if self._rest_until:
                    self._check_rest()
                return self._called("EVALSHA", digest, 1, _BASE, *arguments)
            except NoScriptError:
                with self._answering():
                    return self._redis.eval(text, 1, _BASE, *arguments)
            except RedisError as error:
                raise self._named(error) from error

        return call

    def _called(self, *command: Any) -> Any:
        """The answer to ``command``, on a connection that no call checks first: that takes as long as a short read.

        One that the server closed meanwhile is opened again, by the client.
        """
        idle, pool = self._idle[os.getpid()], self._redis.connection_pool
        try:
            connection = idle.pop()
        except IndexError:
            connection = pool.get_connection()
        try:
            connection.send_command(*command)
            answer = connection.read_response()
        except BaseException as error:
            pool.release(connection)
            if not isinstance(error, redis.ConnectionError):
                raise
            return self._redis.execute_command(*command)
        idle.append(connection)
        return answer

    @contextmanager
    def _answering(self) -> Iterator[None]:
        self._check_rest()
        idle = self._idle[os.getpid()]
        with suppress(IndexError):
            while True:  # The pool may have no more of them.
                self._redis.connection_pool.release(idle.pop())
        try:
            yield
        except RedisError as error:
            raise self._named(error) from error

    def _check_rest(self) -> None:
        if monotonic() < self._rest_until:
            raise Unavailable(f"The online store {self._place} did not answer a moment ago. Try again.")
        self._rest_until = 0.0

    def _named(self, error: RedisError) -> Exception:
        """The error to raise for one of the server or the connection."""
        if isinstance(error, _LOGIN):
            return ConfigError(
                f"The online store {self._place} refuses the login: check the user and password in storage.online_url."
            )
        if isinstance(error, _AWAY):
            self._rest_until = monotonic() + _REST_S
            reason = type(error.__cause__ or error).__name__
            return Unavailable(
                f"The online store {self._place} does not answer ({reason}): start it, or correct storage.online_url."
            )
        return error


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"


def _field(tenant: str, entity: str) -> str:
    # With its length in front no tenant's name can be taken for another's with a part of the entity.
    return f"{len(tenant)}:{tenant}{entity}"


def _key(field: bytes) -> Key:
    size, _, rest = field.decode().partition(":")
    return rest[: int(size)], rest[int(size) :]


def _flat(pairs: Mapping[str, str]) -> list[str]:
    return [part for pair in pairs.items() for part in pair]
