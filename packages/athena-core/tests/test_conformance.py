"""The core obeys the laws that it asks of others."""

from __future__ import annotations

from athena_core.testing import conformance

test_conformance = conformance("athena-core")
