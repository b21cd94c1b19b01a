"""Losses that compare features or shape scores, each with its convention named.

Public implementations of these differ by factors of 100 and more under one name, and a weight found with one is
worthless with another. The docstrings say what is computed here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdplan.nn.losses import cross_entropy, log_softmax, softmax, wide


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


def nst(student: Tensor, teacher: Tensor, convention: str = "mmd") -> Tensor:
    """How differently channels respond to positions: each channel, a vector of length 1 over positions, is a sample.

    Parameters
    ----------
    student, teacher : Tensor [B, C, H, W]
        Of one height and width; channels may differ with "mmd".
    convention : {"mmd", "gram"}
        "mmd": squared maximum mean discrepancy with the kernel ``k(a, b) = <a, b>^2``,
        ``mean_cd k(s_c, s_d) + mean_cd k(t_c, t_d) - 2 mean_cd k(s_c, t_d)``.
        "gram": ``mean_cd (<s_c, s_d> - <t_c, t_d>)^2``, which compares channel by channel.

    Returns
    -------
    Tensor []
        Mean over pairs of channels and over the batch.

    Notes
    -----
    With this kernel the discrepancy is also the squared distance of ``sum_c s_c s_c^T / C`` of both sides, matrices
    over positions. The smaller form is computed: inner products of channels ``[B, C, C]``, or those matrices
    ``[B, HW, HW]``; nothing of size C x C x HW is made.

    References
    ----------
    Huang and Wang: Like what you like, knowledge distill via neuron selectivity transfer (2017).

    Examples
    --------
    >>> a = torch.eye(2).view(1, 2, 1, 2)
    >>> f"{nst(a, a[:, :1]):.4f} {nst(a, torch.ones(1, 2, 1, 2), convention='gram'):.4f}"
    '0.5000 0.5000'
    """
    _same_size(student, teacher)
    s, t = (F.normalize(wide(x).flatten(2), dim=2) for x in (student, teacher))
    if convention == "gram":
        if s.shape != t.shape:
            raise ValueError(f"Gram matrices of one shape are compared, not of {s.shape[1]} and {t.shape[1]} channels")
        return (_products(s, s) - _products(t, t)).square().mean()
    if convention != "mmd":
        raise ValueError(f"convention is `mmd` or `gram`, not `{convention}`")
    if s.shape[2] < min(s.shape[1], t.shape[1]):
        over_positions = [torch.bmm(x.transpose(1, 2), x) / x.shape[1] for x in (s, t)]
        return (over_positions[0] - over_positions[1]).square().sum(dim=(1, 2)).mean()
    return sum(w * _products(a, b).square().mean() for a, b, w in ((s, s, 1), (t, t, 1), (s, t, -2)))  # type: ignore[return-value]


def _products(a: Tensor, b: Tensor) -> Tensor:
    """``[B, C, N], [B, D, N] -> [B, C, D]``, the inner products of all pairs of rows."""
    return torch.bmm(a, b.transpose(1, 2))


def fsp(
    student_from: Tensor, student_to: Tensor, teacher_from: Tensor, teacher_to: Tensor, convention: str = "mse"
) -> Tensor:
    """Distance of the flow between two layers, ``G_cd = mean_xy f_c(x, y) g_d(x, y)``.

    Parameters
    ----------
    student_from, student_to, teacher_from, teacher_to : Tensor [B, C, H, W]
        Two layers of each network. Where their sizes differ, the larger is pooled down to the smaller. The channels
        of both `from` must agree, and those of both `to`.
    convention : {"mse", "norms"}
        "mse": the mean squared difference of G; pooling averages. "norms": the lengths of the columns ``G_.d`` of the
        difference, summed over d; pooling takes maxima. Thousands of times larger.

    Returns
    -------
    Tensor []
        Mean over the batch.

    References
    ----------
    Yim, Joo, Bae, Kim: A gift from knowledge distillation (2017).

    Examples
    --------
    >>> one = torch.ones(1, 2, 4, 4)
    >>> fsp(one, one, one, 3 * one).item(), round(fsp(one, one, one, 3 * one, convention="norms").item(), 4)
    (4.0, 5.6569)
    """
    if convention not in ("mse", "norms"):
        raise ValueError(f"convention is `mse` or `norms`, not `{convention}`")
    shrink = F.adaptive_avg_pool2d if convention == "mse" else F.adaptive_max_pool2d
    s, t = _flow(student_from, student_to, shrink), _flow(teacher_from, teacher_to, shrink)
    if s.shape != t.shape:
        raise ValueError(f"flow matrices of one shape are compared, not {list(s.shape[1:])} and {list(t.shape[1:])}")
    if convention == "mse":
        return (s - t).square().mean()
    lengths: Tensor = torch.linalg.vector_norm(s - t, dim=1)
    return lengths.sum(dim=1).mean()


def _flow(a: Tensor, b: Tensor, shrink: Callable[..., Tensor]) -> Tensor:
    """``[B, C, H, W], [B, D, H', W'] -> [B, C, D]``."""
    if a.dim() != 4 or b.dim() != 4:
        raise ValueError(f"the flow is between maps [B, C, H, W], not {list(a.shape)} and {list(b.shape)}")
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    a, b = (wide(x) if x.shape[2:] == size else shrink(wide(x), size) for x in (a, b))
    return _products(a.flatten(2), b.flatten(2)) / (size[0] * size[1])


def top_score_difference(
    logits: Tensor, labels: Tensor, k: int = 5, u: float | None = None, eta: float | None = None
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
    u : float
        The first score at which the loss is least, ``u = eta / (1 - eta) (k - 1) / k``, from 0 to 1. 1 stands for plain
        cross-entropy (eta = 1).
    eta : float
        Instead of `u`: share of the cross-entropy, from 0 to 1.

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
    share = _share(k, u, eta)
    if not 2 <= k <= logits.shape[1]:
        raise ValueError(f"k is from 2 to the number of classes, {logits.shape[1]}, not {k}")
    hard = cross_entropy(logits, labels)
    if share == 1:
        return hard
    scores = softmax(logits).topk(k, dim=1).values
    return share * hard + (1 - share) * (scores[:, 0] - scores[:, 1:].mean(dim=1)).mean()


def tolerant_eta(u: float, k: int) -> float:
    """Weight of the cross-entropy at which `top_score_difference` is least where the first score is `u`.

    ``eta = u k / (k - 1 + u k)``; from 1 on, the loss is least at a first score of 1 whatever eta is.

    Examples
    --------
    >>> round(tolerant_eta(0.6, k=5), 6)
    0.428571
    """
    return u * k / (k - 1 + u * k)


def tolerated_score(eta: float, k: int) -> float:
    """First score at which `top_score_difference` is least, ``u = min(eta / (1 - eta) (k - 1) / k, 1)``.

    Examples
    --------
    >>> round(tolerated_score(3 / 7, k=5), 6), tolerated_score(1.0, k=5)
    (0.6, 1.0)
    """
    return 1.0 if eta == 1 else min(eta / (1 - eta) * (k - 1) / k, 1.0)


def _share(k: int, u: float | None, eta: float | None) -> float:
    if (eta is None) == (u is None):
        raise ValueError("give either u or eta")
    given = eta if eta is not None else u
    assert given is not None
    if not 0 <= given <= 1:
        raise ValueError(f"{'u' if eta is None else 'eta'} is from 0 to 1, not {given}")
    return given if eta is not None or given == 1 else tolerant_eta(given, k)


def confidence_penalty(logits: Tensor) -> Tensor:
    """Minus the entropy of the scores, ``(1/B) sum_i sum_c p_ic log p_ic``.

    Parameters
    ----------
    logits : Tensor [B, C, ...]

    Returns
    -------
    Tensor []
        Mean over the batch, between minus log C (all scores alike) and 0 (one score is 1).

    References
    ----------
    Pereyra, Tucker, Chorowski, Kaiser, Hinton: Regularizing neural networks by penalizing confident output
    distributions (2017).

    Examples
    --------
    >>> round(confidence_penalty(torch.zeros(2, 10)).item(), 4)
    -2.3026
    """
    log_p = log_softmax(logits)
    return (log_p.exp() * log_p).sum(dim=1).mean()


def _same_size(a: Tensor, b: Tensor) -> None:
    if a.dim() != 4 or b.dim() != 4 or a.shape[2:] != b.shape[2:]:
        raise ValueError(
            f"maps [B, C, H, W] of one height and width are compared, not {list(a.shape)} and {list(b.shape)}"
        )
