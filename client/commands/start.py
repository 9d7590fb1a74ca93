"""`flops client start`: the hospital's node."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from client.settings import node_options

if TYPE_CHECKING:
    from client.settings import ClientSettings


@click.command(
    short_help="Join the federation and stay.",
    epilog="Example: flops client start --server flops.example.org:8080 --task digits --data digits.npz --ca ca.pem",
)
@node_options
@click.option("--json", "as_json", is_flag=True, help="Log one JSON object a line, on standard output.")
@click.pass_context
def start(context: click.Context, /, as_json: bool, **options: Any) -> int:
    """Join the federation and stay: train when a server is there, wait when none is.

    Nothing is asked of anybody: a server that ends, a new one with another certificate of the same CA, a network
    that is cut, all are waited for. Stop it with Ctrl-C or SIGTERM.
    """
    from client.home import alone
    from client.settings import settle_client
    from fl.logs import log_to_people

    log_to_people("flops.client", as_json=as_json, to_output=as_json, debug=context.obj["debug"])
    settings = settle_client(options)
    try:
        with alone(settings.home):
            _run(settings)
    except (Exception, KeyboardInterrupt) as error:
        from fl.errors import interruption

        if interruption(error) is None:
            raise
        _log_stop()
    return 0


def _run(settings: ClientSettings) -> None:
    from client.answering import Answering
    from client.home import RECEIPTS, STATE
    from client.link import Link
    from client.node import Node
    from client.policy import read_policy
    from client.receipts import Receipts, verify
    from client.settings import check_data, read_ca
    from client.worker import Worker, WorkerSettings
    from fl.keys import fingerprint, read_private
    from fl.protocol import this_contract
    from fl.tasks import find_task

    task = find_task(settings.task, settings.schema)
    key, ca = read_private(settings.key), read_ca(settings.ca)
    if settings.policy is not None:
        read_policy(settings.policy)
    check_data(settings.data)
    receipts = Receipts(settings.home / RECEIPTS)
    problems = verify(receipts.path).problems
    if problems:
        logging.getLogger("flops.client").warning(
            "receipts %s: the chain is not whole (%s); flops client receipts --verify tells all. The node goes on",
            receipts.path,
            problems[0] if len(problems) == 1 else f"{len(problems)} problems",
        )
    name = fingerprint(key.public_key())
    worker = Worker(WorkerSettings(settings.task, settings.schema, settings.data, name))
    worker.start()
    answering = Answering(this_contract(task), worker, receipts, settings.policy, settings.server)

    def make_link() -> Link:
        return Link(settings.server, key, ca, plain_text=settings.plain_text)

    try:
        Node(make_link, answering, settings.server, settings.home / STATE).run()
    finally:
        worker.stop()


def _log_stop() -> None:
    logging.getLogger("flops.client").info("stopped")
