"""The hospital's Flower app: the same in a container, in this process and on Ray.

It is built from two things: how to find the site's data, and what trains. Neither knows of messages; the
app translates.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flwr.clientapp import ClientApp

from fl import messages
from fl.data.schema import TableSchema
from fl.data.statistics import column_sums
from fl.messages import SiteDescription
from fl.protocol import disagreement, read_contract
from fl.training import TrainRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from flwr.app import Context, Message

    from fl.data.dataset import Site
    from fl.protocol import Contract
    from fl.training import Evaluation, Trainer


_log = logging.getLogger("flops.client")


def _answer_errors(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Answer with one line what goes wrong here; every runtime would word it in its own way."""
    try:
        return call_next(message, context)
    except Exception as error:
        _log.debug("the message could not be answered", exc_info=True)
        return messages.error_reply(message, error)


def _compared(trainer: Trainer, message: Message, site: Site) -> Evaluation | None:
    """Measure the served model where a message brings it; what goes wrong costs the comparison alone."""
    try:
        champion = messages.read_champion(message)
        return None if champion is None else trainer.evaluate(champion, site.holdout)
    except Exception:
        _log.warning("the served model could not be measured; the new one was", exc_info=True)
        return None


def create_client_app(
    find_site: Callable[[Context], Site], make_trainer: Callable[[], Trainer], contract: Contract | None = None
) -> ClientApp:
    """Make the client app.

    Args:
        find_site: returns the data of the site that a context belongs to.
        make_trainer: returns what trains and evaluates; called for each message, so it may keep one.
        contract: what this side says of itself; a server that does not fit is refused. None asks nothing, where
            both sides are one process.

    Returns:
        An app that answers ``query.describe``, ``train`` and ``evaluate`` as `fl.messages` says.
    """
    app = ClientApp()

    def check_contract(
        message: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        if contract is not None:
            reason = disagreement(read_contract(messages.read_config(message)), contract)
            if reason is not None:
                return messages.refusal_reply(message, reason)
        return call_next(message, context)

    mods: list[Callable[[Message, Context, Callable[[Message, Context], Message]], Message]]
    mods = [_answer_errors, check_contract]

    @app.query("describe", mods=mods)
    def describe(message: Message, context: Context) -> Message:
        site = find_site(context)
        wanted = bool(messages.read_config(message).get("statistics", False))
        table = isinstance(make_trainer().task.schema, TableSchema)
        sums = column_sums(site.train.x) if wanted and table else None
        return messages.describe_reply(
            message, SiteDescription(site.name, len(site.train), len(site.holdout), sums, contract=contract)
        )

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        site = find_site(context)
        settings = messages.read_train_config(messages.read_config(message))
        result = make_trainer().train(TrainRequest(site, messages.read_state(message), settings))
        return messages.train_reply(message, site.name, result)

    @app.evaluate(mods=mods)
    def evaluate(message: Message, context: Context) -> Message:
        site = find_site(context)
        trainer = make_trainer()
        evaluation = trainer.evaluate(messages.read_state(message), site.holdout)
        return messages.evaluate_reply(message, site.name, evaluation, _compared(trainer, message, site))

    return app
