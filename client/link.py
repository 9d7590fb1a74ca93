"""A hospital's side of Flower's deployment runtime: the only module that speaks to a server.

Flower's SuperNode ends when a new server answers at the old address, because its node is unknown there. A global
server that is a job of minutes is always new. `Link` is one acquaintance with one server; `client.node` makes a new
one for each. It uses Flower's Fleet API, key and message format, and runs nothing that a server sends.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import httpx
from flwr.app.message import Message, remove_content_from_message
from flwr.common.serde import fab_from_proto, message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fl.errors import FlopsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec
    from flwr.proto.message_pb2 import ObjectTree

HEARTBEAT_SECONDS = 30.0
"""A server believes a node to be gone after twice as long without a heartbeat."""

LOOK_SECONDS = 2.0
"""How often it is looked, while a message is worked on, whether the server is still the same."""

CONNECT_SECONDS = 1.5
"""How long a server may take to accept a connection. Retries are quick, so that a job's start is not missed."""

ANSWER_SECONDS = 40.0
"""How long a request may take."""

ASK_SECONDS = 9.0
"""How long a question for work may take; the server holds it open for five seconds. A server that vanished without
a word is noticed after so long."""

PATIENCE_SECONDS = 120.0
"""How long a reply is tried to be delivered over a network that is cut."""

REFUSED_SECONDS = 5.0
"""The same where the machine answers that nobody listens there: the network is well, and the server has ended."""

_Result = TypeVar("_Result")


class ServerGone(FlopsError):  # noqa: N818 - a state, not a mistake
    """The server does not answer, or it is another one than before.

    Attributes:
        untrusted: something answers, and its certificate is not to be trusted.
    """

    def __init__(self, reason: str, *, untrusted: bool = False) -> None:
        super().__init__(reason)
        self.untrusted = untrusted


class NotUnderstood(FlopsError):  # noqa: N818 - a state, not a mistake
    """The server sent something that is no message."""


class NotAdmitted(FlopsError):  # noqa: N818 - a state, not a mistake
    """The server answers, and does not let this node in."""


@dataclass(frozen=True)
class Work:
    """A message that waits at the server, without its content."""

    message: Message
    tree: ObjectTree

    @property
    def run_id(self) -> int:
        """The job that it belongs to."""
        return self.message.metadata.run_id


class _Client(FleetHttpClient):
    """Flower's client, which goes nowhere else: not where an answer sends it, and in plain text to no proxy."""

    def __init__(
        self,
        address: str,
        interceptors: Sequence[NodeAuthHttpInterceptor],
        verify: ssl.SSLContext | bool,
        seconds: float,
        *,
        plain_text: bool,
    ) -> None:
        url = f"{'http' if plain_text else 'https'}://{address}"
        # With `verify` it need not read the system's certificates, for a client that is replaced at once.
        super().__init__(url, interceptors=interceptors, verify=verify)
        self._client.close()
        self._client = httpx.Client(
            verify=verify,
            timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
            follow_redirects=False,
            trust_env=not plain_text,
        )


class Link:
    """One node at one server, from `join` to `leave`."""

    def __init__(
        self, address: str, key: ec.EllipticCurvePrivateKey, ca: bytes | None, *, plain_text: bool = False
    ) -> None:
        """Prepare a link; nothing is sent.

        Args:
            address: ``host:port``.
            key: the node's private key.
            ca: the certificates, PEM, of which one must have signed the server's; None for the system's.
            plain_text: no TLS.

        Raises:
            ServerGone: the system's certificates cannot be read now; a package that renews them may be at work.
        """
        public = key.public_key()
        self._identity = public_key_to_bytes(public)
        verify: ssl.SSLContext | bool = False
        if not plain_text and ca is None:
            try:
                verify = ssl.create_default_context()
            except OSError as error:  # Of which ssl's errors are.
                raise ServerGone(f"the system's certificates cannot be read: {error}") from error
        elif not plain_text and ca is not None:
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            verify.load_verify_locations(cadata=ca.decode("ascii"))

        def connect(seconds: float) -> _Client:
            return _Client(address, [NodeAuthHttpInterceptor(key, public)], verify, seconds, plain_text=plain_text)

        self._client, self._asking = connect(ANSWER_SECONDS), connect(ASK_SECONDS)
        self._node = Node()
        self._left, self._busy = threading.Event(), threading.Event()
        self.replaced = threading.Event()
        self._heart: threading.Thread | None = None

    def join(self) -> None:
        """Prove the key and become a node of the server.

        Raises:
            ServerGone: nothing answers there, or not with a certificate that the CA signed.
            NotAdmitted: the server does not know the key.
        """
        try:
            answer = self._client.ActivateNode(
                ActivateNodeRequest(public_key=self._identity, heartbeat_interval=HEARTBEAT_SECONDS)
            )
        except httpx.HTTPStatusError as error:
            raise _refused(error) from error
        except (httpx.HTTPError, ValueError, OSError) as error:
            raise _gone(error) from error
        self._node = Node(node_id=answer.node_id)
        self._heart = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._heart.start()

    def leave(self) -> None:
        """Say goodbye where the server is still there, and close the connection."""
        self._left.set()
        if self._node.node_id:
            with contextlib.suppress(httpx.HTTPError, ValueError, RuntimeError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self._client.close()
        self._asking.close()

    def working(self, busy: bool) -> None:
        """Say that a message is worked on: `replaced` is then set soon after another server has taken the place."""
        (self._busy.set if busy else self._busy.clear)()

    def ask(self) -> Work | None:
        """Ask for work; waits some seconds for it.

        Raises:
            ServerGone: the server has ended, or another one is in its place.
            NotUnderstood: it sent no message.
        """
        try:
            answer = self._asking.PullMessages(PullMessagesRequest(node=self._node))
        except (httpx.HTTPError, ValueError) as error:
            raise _gone(error) from error
        if not answer.messages_list:
            return None
        with _understanding("work"):
            return Work(message_from_proto(answer.messages_list[0]), answer.message_object_trees[0])

    def bundle(self, run_id: int) -> tuple[str, bytes]:
        """Return the hash and the content of a job's app bundle. It is not unpacked."""
        told = self._insist(lambda: self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id)))
        with _understanding("a job"):
            run = run_from_proto(told.run)
        request = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id)
        given = self._insist(lambda: self._client.GetFab(request))
        with _understanding("an app bundle"):
            return run.fab_hash, fab_from_proto(given.fab).content

    def fetch(self, work: Work) -> Message:
        """Get a message's content, and confirm it.

        Raises:
            ServerGone: it did not arrive.
        """
        try:
            message = pull_and_inflate_object_from_tree(
                work.tree,
                make_pull_object_fn_protobuf(
                    lambda request: self._insist(lambda: self._client.PullObject(request)), self._node, work.run_id
                ),
                make_confirm_message_received_fn_protobuf(
                    lambda request: self._insist(lambda: self._client.ConfirmMessageReceived(request)),
                    self._node,
                    work.run_id,
                ),
                return_type=Message,
            )
        except ObjectPullError as error:
            raise ServerGone(str(error)) from error
        message.metadata.__dict__["_message_id"] = work.tree.object_id
        return message

    def reply(self, message: Message) -> None:
        """Send a reply; tries for a while where the network is cut.

        Raises:
            ServerGone: the server is not there any more, or another one is.
        """
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[get_object_tree(message)],
                clientapp_runtime_list=[0.0],
            )
            answer = self._insist(lambda: self._client.PushMessages(request))
            push = make_push_object_fn_protobuf(
                lambda request: self._insist(lambda: self._client.PushObject(request)),
                self._node,
                message.metadata.run_id,
                answer.session_id,
            )
            try:
                push_objects(get_all_nested_objects(message), push, object_ids_to_push=set(answer.objects_to_push))
            except ObjectPushError:
                return  # The round is over, or the server asked for too long: it knows, and asks anew.

    def _insist(self, call: Callable[[], _Result]) -> _Result:
        """Call until the server answers; give up when it is gone for long, or is another one."""
        began, pause = time.monotonic(), 0.1
        while True:
            try:
                return call()
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in (502, 503, 504):
                    raise _gone(error) from error
                reason = error
            except httpx.TransportError as error:
                reason = error  # type: ignore[assignment]
            patience = REFUSED_SECONDS if _nobody_there(reason) else PATIENCE_SECONDS
            if time.monotonic() - began > patience or self._left.is_set():
                raise _gone(reason) from reason
            time.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
            pause = min(2 * pause, 2.0)

    def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        last = time.monotonic()
        while not self._left.wait(LOOK_SECONDS):
            due = HEARTBEAT_SECONDS / 3 * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            if not self._busy.is_set() and time.monotonic() - last < due:
                continue  # Asking for work finds out by itself whether the server is another.
            last = time.monotonic()
            try:
                self._client.SendNodeHeartbeat(request)
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.UNAUTHORIZED:
                    self.replaced.set()
            except (httpx.HTTPError, ValueError, RuntimeError):
                continue


@contextlib.contextmanager
def _understanding(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Whatever a server can make up.
        raise NotUnderstood(f"it sent {what} that cannot be read: {type(error).__name__}") from error


def _refused(error: httpx.HTTPStatusError) -> FlopsError:
    status = error.response.status_code
    if status == 401:
        return NotAdmitted("the server did not accept the proof of the key; is this machine's clock right?")
    if status >= 500 or status == 404:
        return ServerGone(f"HTTP status {status}")
    return NotAdmitted("the server does not know this key")


def _nobody_there(error: BaseException | None) -> bool:
    """Tell whether an error comes from a machine on which nobody listens."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _gone(error: BaseException) -> ServerGone:
    """Say in a few words why there is no server."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return ServerGone(f"its certificate is not accepted: {found.verify_message}", untrusted=True)
        if isinstance(found, ssl.SSLError):
            return ServerGone(f"no TLS connection: {found.reason or found}", untrusted=True)
        if isinstance(found, OSError) and found.strerror:
            return ServerGone(found.strerror.lower())
        found = found.__cause__ or found.__context__
    if isinstance(error, httpx.HTTPStatusError):
        return ServerGone(f"HTTP status {error.response.status_code}")
    return ServerGone(str(error).lower().rstrip(".") or type(error).__name__)
