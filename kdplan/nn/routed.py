"""Several networks of which each sample takes one: a batch costs as much as one network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.nn.host import counts


class Routed(nn.Module):
    """Sends each sample to the network that its label belongs to, and gathers what they give.

    The batch is sorted by network, each network runs once on its samples, and a network without samples does not run.

    Parameters
    ----------
    members
        Networks that take the same inputs and return a tensor ``[n, ...]``, or a dict that has it as `out`.
    part_of
        For each label the position of its network in `members`.
    classes
        For each member the numbers of the classes that its columns are over. Then outputs are padded with minus
        infinity to one width, and class numbers (-1 for padding) are returned too. None for outputs of one shape.

    Examples
    --------
    >>> net = Routed([nn.Identity(), nn.Flatten()], part_of=[0, 0, 1], classes=[[0, 1], [2]])
    >>> net.members[1].forward = lambda x: x[:, :1]
    >>> values, ids = net(torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> values
    tensor([[1., -inf],
            [3., 4.]])
    >>> ids
    tensor([[ 2, -1],
            [ 0,  1]])
    """

    part_of: Tensor
    numbers: Tensor

    def __init__(
        self,
        members: Sequence[nn.Module],
        part_of: Sequence[int],
        classes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.width = max(map(len, classes)) if classes is not None else None
        self._part_of = torch.tensor(list(part_of))
        """The same numbers, which stay on the CPU: how many samples a network gets is decided there."""
        self.register_buffer("part_of", torch.tensor(list(part_of)), persistent=False)
        if classes is not None:
            rows = [[*ids, *[-1] * (max(map(len, classes)) - len(ids))] for ids in classes]
            self.register_buffer("numbers", torch.tensor(rows), persistent=False)

    def forward(self, labels: Tensor, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Labels ``[B]`` and inputs ``[B, ...]`` to outputs ``[B, ...]``, or outputs and classes ``[B, width]``."""
        part = self.part_of[labels]
        order = part.argsort(stable=True)
        numbers = counts(labels, part, self._part_of, len(self.members))
        values = self._run(numbers, [x[order] for x in inputs])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return self._result(values[back], part)

    def fake_forward(self, labels: Tensor, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The shapes that `forward` returns, from as many samples: as evenly spread over the networks as may be."""
        count, members = len(labels), len(self.members)
        even = [count * (i + 1) // members - count * i // members for i in range(members)]
        return self._result(self._run(even, list(inputs)), self.part_of[labels])

    def _run(self, numbers: Sequence[int], inputs: list[Tensor]) -> Tensor:
        outputs = []
        start = 0
        for member, count in zip(self.members, numbers, strict=True):
            if count:
                out = member(*[x[start : start + count] for x in inputs])
                if isinstance(out, dict):
                    out = out["out"]
                if self.width is not None and out.shape[1] < self.width:
                    out = F.pad(out, (0, self.width - out.shape[1]), value=-torch.inf)
                outputs.append(out)
            start += count
        return torch.cat(outputs)

    def _result(self, values: Tensor, part: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return values if self.width is None else (values, self.numbers[part])
