"""The laws of every plugin, and those that athena-optim states for optimizers."""

from athena_core.testing import conformance

test_conformance = conformance("athena-signum")
