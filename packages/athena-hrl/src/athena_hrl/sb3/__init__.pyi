from ._hindsight import HindsightReplayBuffer as HindsightReplayBuffer
from ._masked_dqn import MaskedDQN as MaskedDQN
from ._masked_dqn import MaskedPolicy as MaskedPolicy
from ._masked_dqn import MaskedQNetwork as MaskedQNetwork
from ._smdp_replay import SMDPDictReplayBuffer as SMDPDictReplayBuffer
from ._smdp_replay import SMDPReplayBuffer as SMDPReplayBuffer
from ._smdp_replay import SampledDiscounts as SampledDiscounts
from ._smdp_replay import smdp_options as smdp_options
