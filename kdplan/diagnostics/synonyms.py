"""Words that people of the field try, and the words of the language for them: read by `nearest` alone.

Spelling needs no row: capitals, `_` and `-` are ignored, and `Loss` or `LR` at the end of a name.
"""

from __future__ import annotations

import re

_WORDS = {
    # losses and metrics
    "cross_entropy": "ce nll xent logloss negative_log_likelihood softmax_cross_entropy categorical_cross_entropy",
    "sigmoid_cross_entropy": "bce bce_with_logits binary_cross_entropy binary_cross_entropy_with_logits multilabel",
    "kl": "kld kl_div kl_divergence",
    "kd": "distill distillation knowledge_distillation kd_loss hinton soft_target dist_kl",
    "mse": "l2 mean_squared_error squared_error",
    "attention": "at attention_transfer",
    "top1": "acc accuracy top1_accuracy accuracy_score precision1",
    "top5": "top5_accuracy accuracy5",
    "error": "err error_rate top1_error",
    "ece": "calibration calibration_error expected_calibration_error",
    "ap": "map mean_average_precision average_precision coco_map",
    "parameters": "params nparams num_params num_parameters param_count parameter_count size",
    "flops": "macs gflops gmacs mac",
    # functions of signals
    "onehot": "to_onehot",
    "detach": "stop_gradient stopgrad no_grad sg",
    "reverse": "gradient_reversal grad_reverse grl",
    "concat": "cat concatenate hstack",
    "pool": "avgpool avg_pool adaptive_avg_pool global_average_pool gap",
    "fit": "adapter project projector connector regressor",
    "linear": "fc dense linear_decay",
    "resize": "interpolate upsample",
    "clamp": "clip",
    # optimizers and schedules
    "adamw": "adam_w",
    "steps": "step multi_step step_decay milestones piecewise",
    "cosine": "cosine_annealing cosine_annealing_warm_restarts cosine_similarity cosine_embedding cos",
    "polynomial": "poly",
    "plateau": "reduce_on_plateau reduce_lr_on_plateau",
    "constant": "none fixed const",
    # settings and parameters
    "lr": "learning_rate eta rate",
    "weight_decay": "wd l2 decay",
    "momentum": "mom",
    "betas": "beta",
    "eps": "epsilon",
    "temperature": "t temp tau",
    "optimizer": "optim optimiser opt solver",
    "schedule": "scheduler lr_scheduler sched",
    "epochs": "n_epochs num_epochs max_epochs nb_epochs",
    "batch": "bs batch_size train_batch_size samples_per_gpu",
    "clip": "grad_clip max_norm clip_grad_norm gradient_clipping",
    "accumulate": "grad_accum gradient_accumulation accumulation_steps accumulate_grad_batches",
    "precision": "amp dtype autocast mixed_precision",
    "workers": "num_workers n_workers",
    "label_smoothing": "smoothing smooth",
    "warmup": "warmup_epochs warmup_steps",
    "ema": "ema_decay moving_average",
    "seed": "random_seed manual_seed rng",
    "weights": "checkpoint ckpt pretrained state_dict",
    "at": "milestones",
    "factor": "gamma",
    "final": "eta_min min_lr",
    "cycles": "restarts",
    "loss": "criterion objective losses",
    "augment": "transform transforms augmentation",
    "limit": "subset",
    "classes": "num_classes n_classes nb_classes",
    "live": "recompute",
    "stored": "cached cache",
    "bf16": "bfloat16",
    "fp16": "float16 half",
    "fp32": "float32 float full 32",
    # transforms
    "flip": "hflip horizontal_flip random_horizontal_flip",
    "pad_crop": "random_pad_crop crop",
    "cutout": "random_erasing erasing",
    "color_jitter": "jitter",
    "rotation": "rotate random_rotation",
    "normalize": "norm normalise standardize",
    # networks and data
    "torchvision": "tv",
    "image_folder": "folder imagefolder",
    "arrays": "npz npy numpy tensors",
    # kinds of declarations
    "use": "import include require from load",
    "param": "let var const hyperparameter sweep",
    "def": "define function lambda",
    "data": "dataset datasets loader dataloader",
    "recipe": "config hparams",
    "network": "net module nn",
    "phase": "train training fit",
    "measure": "eval evaluate evaluation test report metrics validate metric",
    "export": "save write",
    # constants and signals
    "true": "yes on",
    "false": "no off",
    "none": "null nil",
    "inputs": "x input images image",
    "labels": "y label target gt ground_truth",
    "logits": "output outputs scores pred preds",
    "sum": "add total",
    "mean": "avg average",
}
"""A word of the language → what it is called elsewhere. One such word may stand in several rows: `l2`."""

_TORCHVISION = (
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2 wide_resnet101_2 "
    "vgg11 vgg13 vgg16 vgg19 densenet121 densenet161 densenet169 densenet201 googlenet inception_v3 squeezenet1_0 "
    "squeezenet1_1 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet1_0 shufflenet_v2_x1_0 efficientnet_b0 "
    "efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_v2_s regnet_y_400mf convnext_tiny "
    "convnext_small convnext_base vit_b_16 vit_b_32 vit_l_16 swin_t swin_s swin_b maxvit_t"
)
_DEPTHS = (8, 14, 20, 26, 32, 38, 44, 50, 56, 62, 110)


def plain(name: str) -> str:
    """A name without its capitals and signs.

    >>> plain("Cross_Entropy"), plain("resnet-18")
    ('crossentropy', 'resnet18')
    """
    return re.sub(r"[\W_]", "", name).lower()


def forms(name: str) -> list[str]:
    """The spellings under which a name may be known: plain, and without what libraries put at its end.

    >>> forms("KLDivLoss"), forms("MultiStepLR")
    (['kldivloss', 'kldiv'], ['multisteplr', 'multistep'])
    """
    whole = plain(name)
    short = re.sub(r"(loss|lr|metric)$", "", whole)
    return [whole, *([short] if short and short != whole else [])]


SYNONYMS: dict[str, list[str]] = {}
"""A plain word of the field → the words of the language for it."""
for _word, _others in _WORDS.items():
    for _other in _others.split():
        SYNONYMS.setdefault(plain(_other), []).append(_word)


def network_call(name: str) -> str | None:
    """The expression for a network that people know under this name, or None.

    >>> network_call("ResNet_18"), network_call("resnet56"), network_call("mine")
    ('torchvision("resnet18")', 'cifar_resnet(depth = 56)', None)
    """
    return _NETWORKS.get(plain(name))


_NETWORKS = {f"resnet{depth}": f"cifar_resnet(depth = {depth})" for depth in _DEPTHS}
_NETWORKS |= {plain(name): f'torchvision("{name}")' for name in _TORCHVISION.split()}
