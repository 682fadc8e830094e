# pyright: reportAttributeAccessIssue=false
# pyright: reportArgumentType=false
"""Whatever comes in, what goes out is as the OpenAPI document says, and never a 5xx."""

from __future__ import annotations

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import foretaste as ft
from foretaste.service.app import build
from foretaste.service.middleware import Rules
from foretaste.service.store import Store
from foretaste.service.tenant import Tenant
from tests.test_service import described
from tests.test_store import postgres, url

__all__ = ["postgres", "url"]  # fixtures
CHECKS = [
    not_a_server_error, content_type_conformance, response_schema_conformance,
    status_code_conformance,
]  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "bundle"
    return ft.fit(ft.BiasedMF(), described(), progress=False).save(folder)


def fuzz(bundle, url: str, cases: int) -> Counter[int]:
    """Ask that many times, spread over every operation; how often each status came."""
    tenant = Tenant(Store.open(url), bundle)
    token = tenant.store.create_key("fuzz", "admin")
    app = build(tenant, Rules(needs_key=True))
    head = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=head)
    operations = [found.ok() for found in schema.get_all_operations()]
    statuses: Counter[int] = Counter()
    for operation in operations:

        @settings(
            max_examples=-(-cases // len(operations)), deadline=None, database=None,
            derandomize=True, suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def check(case):
            answer = case.call(headers=head)
            statuses[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS, headers=head)

        check()
    return statuses


def test_no_request_breaks_the_service_or_its_word(bundle, url):
    statuses = fuzz(bundle, url, 100)
    assert statuses[200] > 20, statuses


@pytest.mark.slow
def test_two_thousand_requests_break_neither_the_service_nor_its_word(bundle, url):
    statuses = fuzz(bundle, url, 3000)  # some operations have nothing to vary
    assert sum(statuses.values()) >= 2000
    assert statuses[200] > 400, statuses
