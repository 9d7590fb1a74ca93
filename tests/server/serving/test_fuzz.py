"""The interface keeps to its own document, whatever it is sent."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode

from fl.tasks.tabular import tabular_task
from server.serving.api import create_api
from server.serving.champion import Champion
from tests.server.serving.apis import standing
from tests.server.serving.test_serving import MIXED

if TYPE_CHECKING:
    from fastapi import FastAPI

CHECKS = (
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.load_all_checks,
)
"""Placeholder."""
