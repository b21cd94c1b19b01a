"""Networks with extra state."""

import torch
from parts import Base
from torch import nn


class Ticking(Base):
    """A Python number that changes, in extra state."""

    def __init__(self):
        super().__init__()
        self.t = 0

    def get_extra_state(self):
        return {"t": self.t}

    def set_extra_state(self, state):
        self.t = state["t"]

    def step(self, f):
        self.t += 1
        return f * min(1.0, self.t / 4)


class InPart(Base):
    """Extra state of a part: a tensor that is no buffer."""

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = torch.zeros(8)

        def get_extra_state(self):
            return [self.mean]

        def set_extra_state(self, state):
            (self.mean,) = state

        def forward(self, f):
            self.mean = 0.5 * self.mean + 0.5 * f.detach().mean(0)
            return f - self.mean

    def __init__(self):
        super().__init__()
        self.holder = self.Holder()

    def step(self, f):
        return self.holder(f)
