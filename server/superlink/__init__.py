"""The global server's side of Flower's deployment runtime, and the only package that knows its inside.

Flower's SuperLink is four things: a state of nodes and messages, an API for the hospitals' nodes (Fleet), one for
whoever starts runs (Control), and one for the server app's process (Runtime). A job is one run and starts it itself,
and its server app lives in the same process: of the four only the state and the Fleet API are needed.
"""

from server.superlink.link import SuperLink, TlsFiles

__all__ = ["SuperLink", "TlsFiles"]
