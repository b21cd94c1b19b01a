"""Settings that several kinds of declaration share."""

from __future__ import annotations

from typing import get_args

from kdplan.ir.plan import FrozenValues, Layout, NormOver, Precision, StackWord
from kdplan.ir.spec import SettingSpec

S = SettingSpec

MOST_STACKED = 64
"""Phases in a stack at most: beyond, the memory that they need together is the limit."""

SEED = S(
    "seed",
    "integer",
    "initial weights of a network; order, augmentation and dropout of a phase",
    "the enclosing declaration's, else the file's `param seed`, else 0",
    "seed = fold(seed, 1)",
    low=0,
)

LOSS = S("loss", "signal", "the scalar that is made small", "needed", "loss = cross_entropy(small.logits, labels)")

RECIPE = (
    S(
        "optimizer",
        "optimizer",
        "any optimizer of torch.optim, by its name in lower case",
        "needed",
        "optimizer = adamw(lr = 1e-3, weight_decay = 0.05)",
    ),
    S("schedule", "schedule", "the learning rate over the phase", "constant()", "schedule = steps(at = [60, 80])"),
    S("epochs", "integer", "length: passes over the first stream", "needed, or `steps`", "epochs = 10", low=0, above=0),
    S("steps", "integer", "length: optimizer steps, in place of epochs", "", "steps = 1000", low=0, above=0),
    S(
        "batch",
        "integer or integers",
        "samples a step, of every stream or of each: `[64, 448]`",
        "128",
        "batch = 64",
        above=0,
    ),
    S("warmup", "number", "epochs over which the learning rate rises linearly from 0", "0", "warmup = 5", low=0),
    S(
        "accumulate",
        "integer",
        "batches whose gradients are averaged into one optimizer step",
        "1",
        "accumulate = 4",
        above=0,
    ),
    S("drop_last", "boolean", "leaves out an epoch's last batch where it is not full", "false", "drop_last = true"),
    S("clip", "number", "largest norm of the gradient over all trained parameters", "no limit", "clip = 5", above=0),
    S(
        "label_smoothing",
        "number",
        "`smoothing` of every cross_entropy that does not give its own",
        "0",
        "label_smoothing = 0.1",
        low=0,
        high=1,
    ),
    S(
        "ema",
        "number",
        "decay of an average of the weights, kept as snapshot `ema`",
        "none",
        "ema = 0.999",
        low=0,
        high=1,
    ),
    S(
        "precision",
        "choice",
        "arithmetic of forward and backward; weights stay in fp32",
        "fp32",
        "precision = bf16",
        choices=get_args(Precision),
    ),
    S(
        "frozen_precision",
        "choice",
        "arithmetic of frozen networks, where it is another",
        "that of `precision`",
        "frozen_precision = bf16",
        choices=get_args(Precision),
    ),
    S(
        "layout",
        "choice",
        "how images and maps lie in memory; `auto` is channels last where every network of the phase is one of "
        "kdplan's for which that is faster, or linear, and no code is the user's",
        "auto",
        "layout = channels_last",
        choices=get_args(Layout),
    ),
    S(
        "channels_last",
        "boolean",
        "the older word: `true` is `layout = channels_last`, `false` is `layout = contiguous`",
        "",
        "channels_last = true",
    ),
    S(
        "compile",
        "boolean or choice",
        "torch.compile of the phase's graph; `graphs`: whole steps as CUDA graphs, which a GPU repeats at once",
        "false",
        "compile = true",
        choices=("true", "false", "graphs"),
    ),
    S(
        "frozen",
        "choice",
        "what frozen networks give for a sample: computed in every step (`live`), once a sample and kept in the store "
        "(`stored`, an error where it cannot be), or as the planner finds cheaper (`auto`)",
        "live",
        "frozen = auto",
        choices=get_args(FrozenValues),
    ),
    S(
        "fold",
        "boolean",
        "batch norms of frozen networks are folded into the convolutions before them, an error where there are none; "
        "values that are stored are computed without",
        "false",
        "fold = false",
    ),
    S(
        "on_nan",
        "policy",
        "what is done about a loss or gradient that is not finite",
        "stop",
        "on_nan = rollback(times = 2)",
    ),
    S("workers", "integer", "processes that read image files; without any, a thread", "0", "workers = 2", low=0),
    S(
        "threads",
        "integer",
        "threads of a step on a CPU; they decide how sums are rounded, so they do not follow from the machine",
        "one for every 0.3 GFLOP of a forward pass, at most 4",
        "threads = 8",
        low=1,
    ),
    S(
        "keep_epochs",
        "integers",
        "epochs (from 1) after which snapshot `epoch = N` is kept",
        "[]",
        "keep_epochs = [5, 10]",
    ),
    S(
        "shards",
        "integer",
        "parts of a batch, each with its own dropout and, but for `norm = sync`, batch statistics; 1, 2, 4 … processes "
        "give the same bits",
        "1",
        "shards = 4",
        low=1,
    ),
    S(
        "norm",
        "choice",
        "what batch norm in training takes its statistics over where a batch has `shards`: each of them (`shard`), or "
        "the whole batch (`sync`)",
        "shard",
        "norm = sync",
        choices=get_args(NormOver),
    ),
    S(
        "stack",
        "integer or choice",
        "phases of equal graphs that train as one, at most; `auto`: where that was measured to be faster",
        "off",
        "stack = auto",
        low=2,
        high=MOST_STACKED,
        choices=get_args(StackWord),
    ),
)

OLDER = frozenset({"channels_last"})
"""Settings of recipes that are other words for one of the rest."""
