from ._meta_world_features import MetaWorldFeatures as MetaWorldFeatures
from ._multi_head import MultiHeadSACPolicy as MultiHeadSACPolicy
from ._multi_task_sac import MultiTaskSAC as MultiTaskSAC
from ._task_of import OneHotTask as OneHotTask
from ._task_replay import TaskReplayBuffer as TaskReplayBuffer
