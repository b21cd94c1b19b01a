"""Losses on tensors.

Each takes a batch and gives a scalar. Where public implementations of one name differ in sums and means, the
docstring says which is meant. The class dimension is 1, so logits may carry further dimensions (``[B, C, H, W]``);
a mean over the batch is then a mean over all positions too.

Inputs in half precision are computed in float32: a log-softmax rounded to bfloat16 has two to three digits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def wide(x: Tensor) -> Tensor:
    """`x` itself, or its float32 copy where it is in half precision; any shape."""
    return x.float() if x.dtype in _HALF else x


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Logarithm of `softmax`, computed without forming the probabilities.

    Parameters
    ----------
    logits : Tensor [B, C, ...]
    temperature : float
        Divides the logits.

    Returns
    -------
    Tensor [B, C, ...]

    Examples
    --------
    >>> log_softmax(torch.tensor([[0.0, 0.0]])).exp()
    tensor([[0.5000, 0.5000]])
    """
    return F.log_softmax(wide(logits) / temperature, dim=1)


def softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Class probabilities ``p_c = exp(x_c / T) / sum_k exp(x_k / T)``.

    Parameters
    ----------
    logits : Tensor [B, C, ...]
    temperature : float
        Divides the logits; above 1 the distribution is softer.

    Returns
    -------
    Tensor [B, C, ...]

    Examples
    --------
    >>> softmax(torch.tensor([[0.0, 1.0986]]))
    tensor([[0.2500, 0.7500]])
    """
    return F.softmax(wide(logits) / temperature, dim=1)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Softmax cross-entropy, ``-(1/B) sum_i sum_c z_ic log p_c(x_i)``.

    Parameters
    ----------
    logits : Tensor [B, C, ...]
    labels : Tensor
        Class numbers ``[B, ...]`` (any integer type), or target probabilities of the logits' shape.
    smoothing : float
        Share of the target that is spread evenly over all classes.

    Returns
    -------
    Tensor []
        Summed over classes, mean over the batch.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0986]])
    >>> round(cross_entropy(x, torch.tensor([0, 1])).item(), 4)
    0.4904
    """
    target = wide(labels) if labels.is_floating_point() else labels.long()
    return F.cross_entropy(wide(logits), target, label_smoothing=smoothing)


def sigmoid_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Independent binary cross-entropies, one for each class.

    ``-(1/B) sum_i sum_c [z_ic log s(x_ic) + (1 - z_ic) log(1 - s(x_ic))]`` with the logistic function s.

    Parameters
    ----------
    logits : Tensor [B, C, ...]
    targets : Tensor
        Class numbers ``[B, ...]`` (one positive class each), or dense targets in [0, 1] of the logits' shape.

    Returns
    -------
    Tensor []
        Summed over classes, mean over the batch. (A mean over classes too would be C times smaller.)

    References
    ----------
    Gao, Li, Nevatia: Knowledge Concentration (2017), Eq. 1 and 2.

    Examples
    --------
    >>> x = torch.zeros(4, 10)
    >>> round(sigmoid_cross_entropy(x, torch.tensor([0, 1, 2, 3])).item(), 4)
    6.9315
    """
    x = wide(logits)
    # sum_c softplus(x_c) - sum_c z_c x_c is the same sum, and needs no dense target where labels are given.
    positive = -F.logsigmoid(-x).sum(dim=1)
    if targets.dim() < x.dim():
        chosen = x.gather(1, targets.long().unsqueeze(1)).squeeze(1)
    else:
        chosen = (targets.to(x.dtype) * x).sum(dim=1)
    return (positive - chosen).mean()


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, convention: str = "sum") -> Tensor:
    """Divergence of the student's distribution from the teacher's, ``KL(p_T(teacher) || p_T(student))``.

    Parameters
    ----------
    student, teacher : Tensor [B, C, ...]
        Logits; the teacher's may be one row ``[1, C]``. Gradients flow into both: `detach` one to keep it fixed.
    temperature : float
        Divides both sides' logits. The factor T squared that keeps gradients comparable is not in here; see `kd`.
    convention : {"sum", "mean"}
        "sum": summed over classes, the divergence. "mean": that divided by the number of classes, as some programs
        compute it by a mean over all entries.

    Returns
    -------
    Tensor []
        Mean over the batch.

    References
    ----------
    Kullback and Leibler: On information and sufficiency (1951).

    Examples
    --------
    >>> s, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> round(kl(s, t).item(), 4), kl(t, t).item()
    (0.4621, 0.0)
    """
    log_p = log_softmax(teacher.to(student.device), temperature)  # `uniform` does not know the device
    log_q = log_softmax(student, temperature)
    terms = log_p.exp() * (log_p - log_q)
    if convention == "sum":
        return terms.sum(dim=1).mean()
    if convention == "mean":
        return terms.mean()
    raise ValueError(f"convention is `sum` or `mean`, not `{convention}`")


def as_logits(probabilities: Tensor) -> Tensor:
    """Logits whose softmax (at temperature 1) is the given distribution: its logarithm, finite also where it is 0.

    Parameters
    ----------
    probabilities : Tensor [B, C, ...]

    Returns
    -------
    Tensor [B, C, ...]

    Examples
    --------
    >>> softmax(as_logits(torch.tensor([[0.25, 0.75]])))
    tensor([[0.2500, 0.7500]])
    """
    return _safe_log(wide(probabilities))


def kl_probabilities(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p || q)`` of two distributions given as probabilities.

    Parameters
    ----------
    p, q : Tensor [B, C, ...]
        Probabilities; one of them may be ``[1, C, ...]`` or ``[C]`` and is then compared with every sample.

    Returns
    -------
    Tensor []
        Summed over classes, mean over the batch. A class with ``p = 0`` adds nothing.

    Examples
    --------
    >>> round(kl_probabilities(uniform(2), torch.tensor([[0.25, 0.75]])).item(), 4)
    0.1438
    """
    p, q = wide(p), wide(q)
    p = p.to(q.device) if p.dim() < q.dim() or len(p) == 1 else p  # `uniform` does not know the device
    if p.dim() == 1:
        p = p.view(1, -1, *[1] * (q.dim() - 2))
    if q.dim() == 1:
        q = q.view(1, -1, *[1] * (p.dim() - 2))
    return (p * (_safe_log(p) - _safe_log(q))).sum(dim=1).mean()


def kd(student: Tensor, teacher: Tensor, temperature: float = 1.0, convention: str = "sum") -> Tensor:
    """Distillation on softened scores, ``T^2 KL(p_T(teacher) || p_T(student))``.

    Parameters
    ----------
    student, teacher : Tensor [B, C, ...]
        Logits.
    temperature : float
        T. The factor T squared undoes the shrinking of the gradients, so that weights keep their meaning.
    convention : {"sum", "mean"}
        Over classes; see `kl`.

    Returns
    -------
    Tensor []
        Mean over the batch.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the knowledge in a neural network (2015).

    Examples
    --------
    >>> s, t = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    >>> round(kd(s, t, temperature=4.0).item(), 4)
    7.3939
    """
    return temperature**2 * kl(student, teacher, temperature, convention)


def squared_l2(a: Tensor, b: Tensor, per: str = "sample") -> Tensor:
    """Squared Euclidean distance of two batches of features, ``(1/B) sum_i ||a_i - b_i||^2``.

    Parameters
    ----------
    a, b : Tensor [B, ...]
        Of one shape; dimension 1 are channels.
    per : {"sample", "place"}
        "sample": summed over all but the batch. "place": summed over channels, mean over height and width, which keeps
        one learning rate fit for maps of all sizes. `mse` is the mean over everything.

    Returns
    -------
    Tensor []
        Mean over the batch.

    Examples
    --------
    >>> squared_l2(torch.zeros(2, 3), torch.ones(2, 3)).item()
    3.0
    >>> squared_l2(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), per="place").item()
    3.0
    """
    _same_shape(a, b)
    if per not in ("sample", "place"):
        raise ValueError(f"`per` is `sample` or `place`, not `{per}`")
    squares = (wide(a) - wide(b)).square()
    return (squares.flatten(1) if per == "sample" else squares).sum(dim=1).mean()


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error, the mean over all entries of ``(a - b)^2``.

    Parameters
    ----------
    a, b : Tensor [B, ...]
        Of one shape.

    Returns
    -------
    Tensor []
        Mean over everything.

    Examples
    --------
    >>> mse(torch.zeros(2, 3), torch.full((2, 3), 2.0)).item()
    4.0
    """
    _same_shape(a, b)
    return (wide(a) - wide(b)).square().mean()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """One minus the cosine of the angle between two features, ``(1/B) sum_i (1 - <a_i, b_i> / (|a_i| |b_i|))``.

    Parameters
    ----------
    a, b : Tensor [B, ...]
        Of one shape; each sample is flattened to one vector.

    Returns
    -------
    Tensor []
        Mean over the batch, between 0 and 2. A zero vector counts as orthogonal to all.

    Examples
    --------
    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item()
    1.0
    """
    _same_shape(a, b)
    return (1 - F.cosine_similarity(wide(a).flatten(1), wide(b).flatten(1), dim=1, eps=1e-8)).mean()


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of distributions, ``-(1/B) sum_i sum_c p_ic log p_ic``.

    Parameters
    ----------
    probabilities : Tensor [B, C, ...]

    Returns
    -------
    Tensor []
        Summed over classes, mean over the batch, in nats.

    Examples
    --------
    >>> round(entropy(torch.full((3, 4), 0.25)).item(), 4)
    1.3863
    """
    p = wide(probabilities)
    return -(p * _safe_log(p)).sum(dim=1).mean()


def uniform(classes: int) -> Tensor:
    """The distribution that gives every class the same probability.

    Parameters
    ----------
    classes : int

    Returns
    -------
    Tensor [1, C]

    Examples
    --------
    >>> uniform(4)
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return torch.full((1, classes), 1.0 / classes)


def _safe_log(p: Tensor) -> Tensor:
    # The floor keeps p * log p and its gradient finite where a softmax has underflown to 0.
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def _same_shape(a: Tensor, b: Tensor) -> None:
    # Broadcasting here would turn a mistake into a number.
    if a.shape != b.shape:
        raise ValueError(f"two tensors of one shape are compared, not {list(a.shape)} and {list(b.shape)}")
