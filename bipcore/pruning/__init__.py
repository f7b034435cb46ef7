"""From scores to a smaller model: how much goes where, the plan, the cut, what makes up for it.

A plan is data and sees no module. It may import `models`, `data`, `criteria` and what they may.
"""
