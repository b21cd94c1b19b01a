"""Losses that compare features or shape scores, each with its convention named.

Public implementations of these differ by factors of 100 and more under one name, and a weight found with one is
worthless with another. The docstrings say what is computed here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdplan.nn.losses import cross_entropy, softmax, wide


def attention(student: Tensor, teacher: Tensor, convention: str = "code") -> Tensor:
    """Distance of attention maps ``q = v / |v|``, where v is the mean over channels of the squared features.

    Parameters
    ----------
    student, teacher : Tensor [B, C, H, W]
        Of one height and width; channels may differ.
    convention : {"code", "paper"}
        "code": mean over batch and positions of ``(q_s - q_t)^2``, as the authors' program has it.
        "paper": mean over the batch of the length ``|q_s - q_t|``; about 100 times larger.

    Returns
    -------
    Tensor []

    References
    ----------
    Zagoruyko and Komodakis: Paying more attention to attention (2017).

    Examples
    --------
    >>> a = torch.zeros(1, 2, 1, 2)
    >>> a[..., 0] = 1.0
    >>> attention(a, a.flip(3)).item(), round(attention(a, a.flip(3), convention="paper").item(), 4)
    (1.0, 1.4142)
    """
    _same_size(student, teacher)
    difference = _attention_map(student) - _attention_map(teacher)
    if convention == "code":
        return difference.square().mean()
    if convention == "paper":
        lengths: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return lengths.mean()
    raise ValueError(f"convention is `code` or `paper`, not `{convention}`")


def _attention_map(x: Tensor) -> Tensor:
    """``[B, C, H, W] -> [B, H W]``, of length 1."""
    return F.normalize(wide(x).square().mean(dim=1).flatten(1), dim=1)


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the channels' activation patterns, with the kernel ``k(a, b) = <a, b>^2``.

    Each channel, as a vector over positions of length 1, is one sample:
    ``mean_ij k(s_i, s_j) + mean_ij k(t_i, t_j) - 2 mean_ij k(s_i, t_j)``.

    Parameters
    ----------
    student, teacher : Tensor [B, C, H, W]
        Of one height and width; channels may differ.

    Returns
    -------
    Tensor []
        Mean over pairs of channels and over the batch.

    Notes
    -----
    The inner products of all channels are one batched product ``[B, C, C]``; nothing of size C x C x HW is made.

    References
    ----------
    Huang and Wang: Like what you like, knowledge distill via neuron selectivity transfer (2017).

    Examples
    --------
    >>> a = torch.eye(2).view(1, 2, 1, 2)
    >>> nst(a, a[:, :1]).item()
    0.5
    """
    _same_size(student, teacher)
    s, t = (F.normalize(wide(x).flatten(2), dim=2) for x in (student, teacher))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b.transpose(1, 2)).square().mean()

    return kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)


def fsp(student_from: Tensor, student_to: Tensor, teacher_from: Tensor, teacher_to: Tensor) -> Tensor:
    """Distance of the flow between two layers: mean squared error of ``G_cd = mean_xy f_c(x, y) g_d(x, y)``.

    Parameters
    ----------
    student_from, student_to, teacher_from, teacher_to : Tensor [B, C, H, W]
        Two layers of each network. Where their sizes differ, the larger is averaged down to the smaller. The channels
        of both `from` must agree, and those of both `to`.

    Returns
    -------
    Tensor []
        Mean over the batch and over the entries of G.

    References
    ----------
    Yim, Joo, Bae, Kim: A gift from knowledge distillation (2017).

    Examples
    --------
    >>> one = torch.ones(1, 2, 4, 4)
    >>> fsp(one, one, one, 3 * one).item()
    4.0
    """
    s, t = _flow(student_from, student_to), _flow(teacher_from, teacher_to)
    if s.shape != t.shape:
        raise ValueError(f"flow matrices of one shape are compared, not {list(s.shape[1:])} and {list(t.shape[1:])}")
    return (s - t).square().mean()


def _flow(a: Tensor, b: Tensor) -> Tensor:
    """``[B, C, H, W], [B, D, H', W'] -> [B, C, D]``."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    a, b = (wide(x) if x.shape[2:] == size else F.adaptive_avg_pool2d(wide(x), size) for x in (a, b))
    return torch.bmm(a.flatten(2), b.flatten(2).transpose(1, 2)) / (size[0] * size[1])


def top_score_difference(
    logits: Tensor, labels: Tensor, k: int = 5, eta: float | None = None, u: float | None = None
) -> Tensor:
    """Cross-entropy that tolerates high second scores, ``eta CE + (1 - eta) (f_1 - mean(f_2 .. f_k))``.

    f are the k highest softmax scores of a sample, in falling order. Minimising the bracket pulls the others up to the
    first.

    Parameters
    ----------
    logits : Tensor [B, C]
    labels : Tensor [B]
    k : int
        How many scores are compared; 2 to C.
    eta : float
        Share of the cross-entropy, from 0 to 1.
    u : float
        Instead of `eta`: the first score at which the loss is least, ``u = eta / (1 - eta) (k - 1) / k``, from 0 to 1.
        1 stands for plain cross-entropy (eta = 1).

    Returns
    -------
    Tensor []
        Mean over the batch.

    References
    ----------
    Yang, Xie, Qiao, Yuille: Training deep neural networks in generations (2019), Eq. 3.

    Examples
    --------
    >>> x = torch.tensor([[4.0, 0.0, 0.0, 0.0, 0.0]])
    >>> y = torch.tensor([0])
    >>> round(top_score_difference(x, y, u=0.6).item(), 4), round(top_score_difference(x, y, u=1.0).item(), 4)
    (0.553, 0.0707)
    """
    share = _eta(k, eta, u)
    if not 2 <= k <= logits.shape[1]:
        raise ValueError(f"k is from 2 to the number of classes, {logits.shape[1]}, not {k}")
    hard = cross_entropy(logits, labels)
    if share == 1:
        return hard
    scores = softmax(logits).topk(k, dim=1).values
    return share * hard + (1 - share) * (scores[:, 0] - scores[:, 1:].mean(dim=1)).mean()


def _eta(k: int, eta: float | None, u: float | None) -> float:
    if (eta is None) == (u is None):
        raise ValueError("give either eta or u")
    given = eta if eta is not None else u
    assert given is not None
    if not 0 <= given <= 1:
        raise ValueError(f"{'u' if eta is None else 'eta'} is from 0 to 1, not {given}")
    return given if eta is not None or given == 1 else given * k / (k - 1 + given * k)


def _same_size(a: Tensor, b: Tensor) -> None:
    if a.dim() != 4 or b.dim() != 4 or a.shape[2:] != b.shape[2:]:
        raise ValueError(f"maps of one height and width are compared, not {list(a.shape)} and {list(b.shape)}")
