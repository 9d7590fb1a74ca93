"""What a hospital can check by itself before it takes part. Nothing leaves the machine but a greeting to the server.

Each check is one row: what, whether it passed, and what was found or what to do. One that cannot be made because
another failed is skipped, and says so.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

from client.receipts import verify
from client.settings import read_ca
from fl.checks import Check, Skip, check
from fl.console import count
from fl.errors import FlopsError

if TYPE_CHECKING:
    from client.settings import ClientSettings
    from fl.tasks import Task

_CONNECT_SECONDS = 3.0


def check_all(settings: ClientSettings) -> list[Check]:
    """Make all checks, in the order in which they matter."""
    return [
        check("task", lambda: _task(settings)),
        check("data", lambda: _data(settings)),
        check("policy", lambda: _policy(settings)),
        check("key", lambda: _key(settings)),
        check("receipts", lambda: _receipts(settings)),
        check("CA", lambda: _ca(settings)),
        check("server", lambda: _server(settings)),
    ]


def _task(settings: ClientSettings) -> str:
    from fl.protocol import PROTOCOL, schema_digest
    from fl.tasks import find_task

    task = find_task(settings.task, settings.schema)
    return f"{task.name}, schema {schema_digest(task)[:12]}, protocol {PROTOCOL}"


def _data(settings: ClientSettings) -> str:
    from fl.tasks import find_task

    try:
        task = find_task(settings.task, settings.schema)
    except FlopsError:
        raise Skip("the task is not known") from None
    train, holdout = _split(settings, task)
    return f"{settings.data}: {count(train, 'example')} to train on, {holdout} held out"


def _split(settings: ClientSettings, task: Task) -> tuple[int, int]:
    """Return how many examples are trained on and held out."""
    from fl.data.dataset import split_site
    from fl.data.files import read_examples

    site = split_site("check", read_examples(settings.data, task), seed=0)
    return len(site.train), len(site.holdout)


def _policy(settings: ClientSettings) -> str:
    from client.policy import read_policy
    from fl.tasks import find_task

    if settings.policy is None:
        raise Skip("none: every task and every server release is allowed")
    policy = read_policy(settings.policy)
    try:
        task = find_task(settings.task, settings.schema)
    except FlopsError:
        raise Skip("the task is not known") from None
    reason = policy.refuse_task(task.name)
    if reason is None and policy.min_examples:
        try:
            reason = policy.refuse_examples(_split(settings, task)[0])
        except (FlopsError, OSError):
            raise Skip("the data cannot be read") from None
    if reason is not None:
        raise FlopsError(reason)
    return f"{settings.policy}: {policy.describe()}"


def _key(settings: ClientSettings) -> str:
    from fl.keys import fingerprint, read_private

    return f"{settings.key}: {fingerprint(read_private(settings.key).public_key())}"


def _receipts(settings: ClientSettings) -> str:
    from client.home import RECEIPTS

    path = settings.home / RECEIPTS
    there = next(
        folder for folder in (settings.home.absolute(), *settings.home.absolute().parents) if folder.exists()
    )
    if not os.access(there, os.W_OK | os.X_OK):
        raise FlopsError(f"{settings.home}: cannot be written by this user; a node keeps its receipts there")
    if not path.exists():
        raise Skip("none yet")
    found = verify(path)
    if found.problems:
        raise FlopsError(f"{path}: {found.problems[0]}")
    return f"{path}: {found.entries}, chain whole"


def _ca(settings: ClientSettings) -> str:
    if settings.plain_text:
        raise Skip("plain text, no certificate")
    if settings.ca is None:
        raise Skip("none given: the system's certificate authorities count")
    read_ca(settings.ca)
    return str(settings.ca)


def _server(settings: ClientSettings) -> str:
    host, _, port = settings.server.rpartition(":")
    bare = host.strip("[]")
    proxies = getproxies()
    proxy = proxies.get("http" if settings.plain_text else "https") or proxies.get("all")
    if proxy and not proxy_bypass(settings.server):
        raise Skip(f"{settings.server} is reached through a proxy; only start goes that way")
    try:
        connection = socket.create_connection((bare, int(port)), timeout=_CONNECT_SECONDS)
    except ConnectionRefusedError:
        raise Skip(f"{settings.server} is not there at the moment; a node waits for it") from None
    except OSError as error:
        raise FlopsError(f"{settings.server} cannot be reached: {error.strerror or error}") from error
    with connection:
        if settings.plain_text:
            return f"{settings.server} is there"
        if settings.ca is None:
            context = ssl.create_default_context()
        else:  # As a node does it.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cafile=settings.ca)
        try:
            with context.wrap_socket(connection, server_hostname=bare) as secure:
                return f"{settings.server} is there, {secure.version()}, certificate accepted"
        except ssl.SSLCertVerificationError as error:
            raise FlopsError(f"{settings.server}: its certificate is not accepted: {error.verify_message}") from error
        except OSError as error:
            raise FlopsError(f"{settings.server}: no TLS connection: {error}") from error
