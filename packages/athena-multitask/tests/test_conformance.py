"""The package passes the kit it is judged by."""

from athena_core.testing import conformance

test_conformance = conformance("athena-multitask")
