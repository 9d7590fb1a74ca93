"""`flops client check`: everything that can be wrong, before it is."""

from __future__ import annotations

from typing import Any

import click

from client.settings import node_options


@click.command(
    short_help="Check everything before start.",
    epilog="Example: flops client check --server flops.example.org:8080 --task digits --data digits.npz --ca ca.pem",
)
@node_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(as_json: bool, **options: Any) -> int:
    """Check data, policy, key, receipts, CA and server with the options that start takes.

    No example leaves the machine; the server is greeted and not joined. Ends with 1 where a check failed.
    """
    from client.checks import check_all
    from client.settings import settle_client
    from fl.checks import FAILED

    checks = check_all(settle_client(options))
    passed = all(c.result != FAILED for c in checks)
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({"passed": passed, "checks": [asdict(c) for c in checks]}))
    else:
        from fl.console import print_table

        print_table(("check", "result", "what"), [(c.what, c.result, c.found) for c in checks])
    return 0 if passed else 1
