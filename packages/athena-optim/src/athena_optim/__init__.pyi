from ._adamw import AdamW as AdamW
from ._clip import clip_gradients as clip_gradients
from ._groups import param_groups as param_groups
from ._schedule import FactorSchedule as FactorSchedule
from ._warmup_cosine import warmup_cosine as warmup_cosine
from ._warmup_cosine import warmup_cosine_factor as warmup_cosine_factor
