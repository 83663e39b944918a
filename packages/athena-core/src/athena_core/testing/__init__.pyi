from . import bench as bench
from ._check import Check as Check
from ._cut_run import CutRun as CutRun
from ._documentation import documentation as documentation
from ._kernels import kernel_checks as kernel_checks
from ._plugin import check_plugin as check_plugin
from ._plugin import conformance as conformance
