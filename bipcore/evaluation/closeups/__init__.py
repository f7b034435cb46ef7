"""One head, or one FFN channel, from near by: what it reads, what it writes, what it is worth.

It may import what the package `evaluation` may.
"""

from .base import MOST_TOKENS, Promoted, Silenced, Token
from .channels import CHANNEL_CLOSE_UPS, ChannelCloseUp, Histogram, Peak, channel_close_up
from .heads import HEAD_CLOSE_UPS, HeadCloseUp, head_close_up

__all__ = [
    "CHANNEL_CLOSE_UPS",
    "HEAD_CLOSE_UPS",
    "MOST_TOKENS",
    "ChannelCloseUp",
    "HeadCloseUp",
    "Histogram",
    "Peak",
    "Promoted",
    "Silenced",
    "Token",
    "channel_close_up",
    "head_close_up",
]
