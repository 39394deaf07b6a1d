"""A class that is no linear layer of any family."""

from torch import nn


class ForeignLinear(nn.Linear):
    pass


def not_a_class():
    pass
