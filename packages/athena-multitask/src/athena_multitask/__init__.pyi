from ._balancer import Balancer as Balancer
from ._task_weighting import TaskWeighting as TaskWeighting
