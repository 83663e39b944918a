"""Without its extra, Meta-World's part says how to install it; other versions are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from athena_core import AthenaError
from athena_multitask._meta_world_tasks import refuse_version

CODE = """
import sys

sys.modules["{missing}"] = None
import athena_multitask

athena_multitask.evaluate_success
try:
    {use}
except athena_multitask._meta_world_tasks.AthenaError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("missing", "use"),
    [
        ("gymnasium", "athena_multitask.MetaWorld"),
        ("gymnasium", "athena_multitask.MetaWorldEnv"),
        ("metaworld", "athena_multitask._meta_world_tasks.require_metaworld()"),
        ("metaworld", "athena_multitask.scripted_policy('reach-v3')"),
    ],
)
def test_the_error_says_what_to_install(missing: str, use: str) -> None:
    code = CODE.format(missing=missing, use=use).replace(
        "import athena_multitask\n", "import athena_multitask\nimport athena_multitask._meta_world_tasks\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.count("\n") == 1
    assert f"need {missing}: run `pip install 'athena-multitask[metaworld]'`" in run.stdout


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ("2.0.0", "not the third version"),
        ("3.0.0", "reward of button-press-topdown-wall-v3 is another"),
        ("3.2.0rc1", "not been checked"),
    ],
)
def test_a_version_that_is_not_known_to_be_right_is_refused(found: str, why: str) -> None:
    with pytest.raises(AthenaError, match=f"got {found}, .*{why}.* Run `pip install"):
        refuse_version(found)


@pytest.mark.parametrize("found", ["3.1.1", "3.1.4", "3.1.1.post1"])
def test_a_version_known_to_be_right_is_taken(found: str) -> None:
    refuse_version(found)
