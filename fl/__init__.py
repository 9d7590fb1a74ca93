"""What server and client share: tasks, data, training, the message contract, settings, errors.

Importing this package sends nothing anywhere and asks its libraries for the same: usage statistics and
update checks are off unless the environment says otherwise. It must come before the libraries' own import,
which is why it stands here.
"""

import os

__version__ = "0.1.0"

for _name, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # Arrays travel in pieces of this many bytes: it bounds what a server holds in memory for each hospital.
    "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(2**20),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)
