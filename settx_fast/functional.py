"""The operations under the modules; see each for what it means and accepts."""

from settx_fast.attention.choice import Impl
from settx_fast.attention.functional import attention_block, attention_weights, induced_set_attention, set_mean

__all__ = ["Impl", "attention_block", "attention_weights", "induced_set_attention", "set_mean"]
