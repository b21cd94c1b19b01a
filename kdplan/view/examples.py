"""The reference's examples as whole plans: each continues the declarations that it reads.

A test checks every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdplan.constructs.table import CONSTRUCTS, KINDS
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS, SIGNALS
from kdplan.ir.kinds import NETWORKS
from kdplan.ir.optimizers import OPTIMIZERS
from kdplan.ir.spec import Kind, Param, SettingSpec, Spec
from kdplan.nn.catalog import METRICS
from kdplan.resolve.choices import choices
from kdplan.resolve.weight_files import PART

FRAME = {
    "digits": "data digits = digits",
    "quick": "recipe quick { optimizer = sgd(lr = 0.1)  epochs = 100  batch = 64 }",
    "big": "teacher big = digits_net(width = 16) {\n"
    "  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }\n}",
    "small": "student small = digits_net(width = 4)",
    "alone": "phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }",
}
"""Name -> declaration: what the examples continue."""

RUNS = "param seed in 0..2\n"
WIDE = """teacher wide[width in [2, 4]] = digits_net(width = width) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}"""
"""Runs, and a family of networks: what claims are about."""

HALVES = """verticals half of digits = random(parts = 2, seed = 0)
teacher t[v in half] = digits_net(width = 4, classes = v) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
student both = digits_net(width = 6, classes = digits.classes)"""
"""Teachers of different classes, and a student of all."""

VALUES = {
    "steps.at": "[60, 80]",
    "plateau.until": "1e-5",
    "topk.k": "3",
    "tar.far": "0.01",
    "rank.k": "1",
    "mlp.inputs": "64",
    "conv1x1.inputs": "16",
    "conv1x1.outputs": "8",
    "linear.inputs": "16",
    "linear.outputs": "8",
    "autoencoder.inputs": "16",
    "autoencoder.code": "4",
    "torchvision.name": '"resnet18"',
    "timm.name": '"resnet10t"',
    "image_folder.path": '"pictures"',
    "templates.path": '"faces"',
    "coco_detection.path": '"coco"',
    "detector.name": '"retinanet"',
    "arrays.path": '"numbers.npz"',
    "source.function": '"my_data.py:squares"',
    "pad_crop.size": "8",
    "random_crop.size": "6",
    "random_resized_crop.size": "8",
    "rotation.degrees": "15",
    "cutout.size": "3",
    "resize.size": "16",
    "center_crop.size": "6",
    "per_class.train": "60",
    "fraction.train": "0.8",
    "random.parts": "2",
    "fc.size": "64",
    "sc.size": "32",
    "sc.by": "[0..4, 5..9]",
    "self_paced.by": "[0..4, 5..9]",
    "hierarchy.file": '"kinds.csv"',
}
"""Values for arguments that have no default."""

MORE = {
    "digits_net": ["width = 8"],
    "mpvap": ["groups = [0..4, 5..9]"],
    "pvap": ["part = 0", "groups = [0..4, 5..9]"],
    "siblings": ["groups = [0..4, 5..9]"],
    "class_distance": ["groups = [0..4, 5..9]"],
    "superclass_distance": ["groups = [0..4, 5..9]"],
    "score": ["2"],
    "confusion": ["2"],
    "svm": ["per_class = 60"],
    "torchvision": ["classes = 10", "channels = 1"],
    "timm": ["classes = 10", "channels = 1"],
    "cifar_resnet": ["depth = 8", "channels = 1"],
    "cifar_wide_resnet": ["channels = 1"],
    "cifar_resnext": ["width = 8", "channels = 1"],
    "alexnet": ["width = 0.125", "channels = 1"],
    "bn_inception": ['base = "mixed3b"', "channels = 1"],
    "cifar_vgg": ["depth = 11", "channels = 1"],
    "cifar_densenet": ["depth = 22", "channels = 1"],
}
"""Arguments that an example gives besides the required ones."""

_PLAN_FUNCTIONS = {
    "fold": "network other = digits_net() {{ seed = {} }}",
    "upto": "phase part of {} on digits with quick {{ loss = mean(small.layer2) }}",
    "through": "phase part of small on digits with quick {{ loss = kl(small.logits, {}) }}",
    "merge": "phase low of small.stem on digits with quick {{ loss = cross_entropy(small.logits, labels) }}\n"
    "phase high of small.fc on digits with quick {{ loss = cross_entropy(small.logits, labels) }}\n"
    "network both = {}",
    "average": "phase again of small on digits with quick {{ loss = cross_entropy(small.logits, labels)  seed = 1 }}\n"
    "network both = {}",
    "ema": "phase follow of small on digits with quick {{ loss = cross_entropy(small.logits, labels)"
    " + kl(small.logits, {}.logits) }}",
    "case": "param pair = {}",
    "union": HALVES.replace("{", "{{").replace("}", "}}") + "\nteacher whole = digits_net(classes = {})",
    "count": "def classes = {}",
}
"""A plan around an example of a function that gives no network, or needs more phases."""

_OPEN_SET = """{frame}
data digits = digits {{ protocol = {protocol} }}
verticals part of digits {{ known = 0..6  new = 7..9 }}
student few = digits_net(width = 4, classes = part[known])
phase alone of few on digits[part[known]] with quick {{ loss = cross_entropy(few.logits, labels) }}
measure shown of few@alone.features on digits[part[new]].test {{ {metric} }}
"""
"""Features of digits that were never trained on, compared."""

_DETECTION = """data boxes = coco_detection("coco", shorter = 96, longer = 128)
recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1  batch = 2 }}
student small = {network} {{
  phase train on boxes with quick {{ loss = {loss} }}
}}
{measure}"""
"""A small detector on data with boxes."""

_IN_CONSTRUCTS = {
    "stages": "stages mimic of small from big on digits with quick {{ {auto} {example} }}",
    "stage": "stages mimic of small on digits with quick {{ stage s1 {{ small.layer1 ~ big.layer1  {example} }} }}",
    "head": "stages mimic of small from big on digits with quick {{ {auto} head {{ {loss} {example} }} }}",
    "generations": "generations line of digits_net(width = 4) on digits with quick {{ {count} {example}\n  "
    "patriarch {{ loss = cross_entropy(self.logits, labels) }}\n  "
    "generation {{ loss = kl(self.logits, previous.logits) }}\n}}",
    "patriarch": "generations line of digits_net(width = 4) on digits with quick {{ count = 0  "
    "patriarch {{ {example} }} }}",
    "generation": "generations line of digits_net(width = 4) from big on digits with quick {{ {count} "
    "generation {{ {example} }} }}",
    "amalgamate": "{halves}\namalgamate ka of both from t[*] on digits with quick {{ {example} }}",
    **{
        part: f"{{halves}}\namalgamate ka of both from t[*] on digits with quick {{{{ {part} {{{{ {{example}} }}}} }}}}"
        for part in ("codes", "layerwise", "joint")
    },
    "branches": "branches one of digits_net(width = 4) from layer2 on digits with quick {{ {loss} {example} }}",
}
"""A construct around an example of its setting, where its own example does not hold one more."""

_TABLES = (
    "optimizer",
    "schedule",
    "policy",
    "model",
    "metric",
    "source",
    "transform",
    "split",
    "protocol",
    "partition",
    "gate",
    "head",
    "logit_scale",
)

_BRANCH_LOSS = "loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)"

SIGNAL_EXAMPLES = {
    "inputs": "mean(small(inputs).logits)",
    "labels": "cross_entropy(small.logits, labels)",
    "indices": "mean((indices < 100) * 1.0) * mean(small.logits)",
    "targets": "self(inputs, targets).classification + self(inputs, targets).bbox_regression",
    "epoch": "(epoch < 10) * mean(small.logits)",
    "step": "(step < 100) * mean(small.logits)",
    "progress": "(1 - progress) * mean(small.logits)",
}


@dataclass(frozen=True, slots=True)
class Example:
    """One example: what it is an example of, the text shown, the whole plan."""

    of: str
    shown: str
    plan: str


def own_settings(kind: Kind) -> list[SettingSpec]:
    """The settings of a kind, without those that it shares with `recipe`."""
    shared = KINDS["recipe"].settings if kind.name != "recipe" else ()
    return [s for s in kind.settings if s not in shared]


def frame(*without: str) -> str:
    """The common declarations, without the named ones."""
    return "\n".join(text for name, text in FRAME.items() if name not in without)


def examples() -> list[Example]:
    """Every example of the reference.

    >>> next(e for e in examples() if e.of == "function kd").shown
    'kd(small.logits, big.logits, temperature = 4)'
    """
    all_examples = [Example(f"kind {k.name}", k.example, _kind_plan(k)) for k in KINDS.values()]
    for kind in KINDS.values():
        for s in kind.settings if kind.name in ("recipe", "phase") else own_settings(kind):
            all_examples.append(
                Example(f"setting {kind.name}.{s.name}", s.example, _setting_plan(kind, s.name, s.example))
            )
    all_examples += [Example(f"function {f.name}", f.example, _loss_plan(f)) for f in FUNCTIONS.values()]
    for f in PLAN_FUNCTIONS.values():
        body = _PLAN_FUNCTIONS.get(f.name, "network both = {}").format(f.example)
        all_examples.append(Example(f"function {f.name}", f.example, f"{frame()}\n{body}\n"))
    all_examples += [
        Example(f"signal {name}", text, f"{frame()}\n{_phase(f'cross_entropy(small.logits, labels) + {text}')}\n")
        for name, text in SIGNAL_EXAMPLES.items()
        if name in SIGNALS and name != "targets"
    ]
    boxes = SIGNAL_EXAMPLES["targets"]
    all_examples.append(Example("signal targets", boxes, _detection(loss=boxes)))
    for table in _TABLES:
        all_examples += [_choice(table, spec) for spec in choices()[table].values()]
    return all_examples


def call(spec: Spec) -> str:
    """A call with its required arguments.

    >>> call(choices()["schedule"]["steps"])
    'steps(at = [60, 80])'
    """
    given = [_argument(spec, p) for p in spec.params if p.required]
    given += MORE.get(spec.name, [])
    return f"{spec.name}({', '.join(given)})" if given else spec.name


def _argument(spec: Spec, p: Param) -> str:
    value = VALUES[f"{spec.name}.{p.name}"]
    positional = p.name in ("name", "path", "file", "function", "size", "degrees", "k")
    return value if positional else f"{p.name} = {value}"


def _phase(loss: str) -> str:
    return f"phase shown of small on digits with quick {{ loss = {loss} }}"


def _loss_plan(spec: Spec) -> str:
    term = spec.example if spec.result.startswith("scalar") or "mean(" in spec.example else f"mean({spec.example})"
    if spec.example.split("(")[0] != spec.name:
        term = spec.example
    return f"{frame()}\n{_phase(f'cross_entropy(small.logits, labels) + {term}')}\n"


def _kind_plan(kind: Kind) -> str:
    if kind.name == "use":
        return f"{kind.example}\n"
    name = kind.example.split()[1]
    extra = "\n" + _phase("hard(small.logits)") if kind.name == "def" else ""
    if kind.name == "claim":
        return f"{RUNS}{frame()}\n{kind.example}\n"
    before = f"{HALVES}\n" if kind.example.startswith("amalgamate") else ""
    return f"{frame(name)}\n{before}{kind.example}{extra}\n"


def _setting_plan(kind: Kind, name: str, example: str) -> str:
    if kind.name == "recipe":
        body = ["optimizer = sgd(lr = 0.1)"] if name != "optimizer" else []
        body += ["epochs = 100"] if name not in ("epochs", "steps") else []
        return f"{frame('quick')}\nrecipe quick {{\n  " + "\n  ".join([*body, example]) + "\n}\n"
    if kind.name == "phase":
        loss = [] if name == "loss" else ["loss = cross_entropy(small.logits, labels)"]
        recipe = "bare" if name in ("epochs", "steps") else "quick"
        bare = "recipe bare { optimizer = sgd(lr = 0.1) }\n" if recipe == "bare" else ""
        body_text = "\n  ".join([*loss, example])
        return f"{frame('alone')}\n{bare}phase alone of small on digits with {recipe} {{\n  {body_text}\n}}\n"
    if kind.name in NETWORKS:
        # the files that the documents speak of
        file = {"rename": "backbone.safetensors", "entry": "averaged.pth"}.get(name, "start.safetensors")
        if name in PART:
            example = f'weights = "{file}"  {example}'
        return f"{frame('small', 'alone')}\n{kind.name} small = digits_net(width = 4) {{ {example} }}\n"
    if kind.name == "data":
        source = 'arrays("unsplit.npz")' if name == "split" else "digits"
        return f"{frame('digits')}\ndata digits = {source} {{ {example} }}\n"
    if kind.name in _IN_CONSTRUCTS:
        auto = "" if "stages = auto" in example else "stages = auto"
        term = "" if name == "loss" else "loss = cross_entropy(small.logits, labels)"
        if kind.name == "branches" and term:
            term = _BRANCH_LOSS
        count = "" if name == "count" else "count = 1"
        text = _IN_CONSTRUCTS[kind.name].format(example=example, auto=auto, loss=term, count=count, halves=HALVES)
        return f"{frame('alone')}\n{text}\n"
    if kind.name == "measure":
        return f"{frame()}\nmeasure table of big, small@alone on digits.test {{ top1, {example} }}\n"
    if kind.name == "claim":
        of = "wide[*] on digits.test over width" if name == "trend" else "big > small@alone on digits.test"
        return f"{RUNS}{frame()}\n{WIDE}\nclaim shown of {of} {{ top1, {example} }}\n"
    if kind.name in CONSTRUCTS:
        return f"{frame()}\n{_with_setting(kind, name, example)}\n"
    assert kind.name == "verticals"
    parts = 'low = ["0", "1", "2", "3", "4", "5"]  high = ["5", "6", "7", "8", "9"]'
    return f"{frame()}\nverticals part of digits {{ {example}  {parts} }}\n"


def _with_setting(kind: Kind, name: str, example: str) -> str:
    """A construct's own example, with one setting more where it lacks that one."""
    if f"{name} = " in kind.example:
        return kind.example
    head, brace, _ = kind.example.rpartition("}")
    return f"{head} {example} }}" if brace else f"{kind.example} {{ {example} }}"


def _choice(table: str, spec: Spec) -> Example:
    shown = call(spec)
    if table == "optimizer":
        assert spec.name in OPTIMIZERS
        plan = f"{frame('quick')}\nrecipe quick {{ optimizer = {shown}  epochs = 10 }}\n"
    elif table == "schedule":
        plan = f"{frame('quick')}\nrecipe quick {{ optimizer = sgd(lr = 0.1)  schedule = {shown}  epochs = 100 }}\n"
    elif table == "policy":
        plan = f"{frame('quick')}\nrecipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 10  on_nan = {shown} }}\n"
    elif table == "metric":
        plan = f"{frame()}\nmeasure shown of big, small@alone on digits.test {{ {shown} }}\n"
        if METRICS[spec.name].needs in ("features", "transfer"):
            plan = f"{frame()}\nmeasure shown of big.features, small@alone.features on digits.test {{ {shown} }}\n"
        if METRICS[spec.name].needs == "templates":
            plan = _OPEN_SET.format(frame=frame("digits", "alone"), protocol="templates(size = 2)", metric=shown)
        if METRICS[spec.name].needs == "boxes":
            plan = _detection(f"measure shown of small on boxes.test {{ {shown} }}\n")
    elif table == "model" and spec.name == "detector":
        plan = _detection(network=shown)
    elif table == "source":
        use = 'use "my_data.py" as my_data\n' if spec.more else ""
        plan = f"{use}data shown = {shown}\nmodel m = digits_net(classes = shown.classes)\nnetwork n = m\n"
    elif table == "transform":
        plan = f"{frame('digits')}\ndata digits = digits {{ augment = [{shown}] }}\n"
        if spec.name == "to_rgb":
            plan = plan.replace("digits_net(", "digits_net(channels = 3, ")
    elif table == "gate":
        example = _IN_CONSTRUCTS["branches"].format(loss=_BRANCH_LOSS, example=f"gate = {shown}")
        plan = f"{frame()}\n{example}\n"
    elif table == "split":
        plan = f'data shown = arrays("unsplit.npz") {{ split = {shown} }}\n'
    elif table == "protocol":
        plan = _OPEN_SET.format(frame=frame("digits", "alone"), protocol=shown, metric="rank(1)")
    elif table in ("head", "logit_scale"):
        plan = f"{frame('small')}\nstudent small = digits_net(width = 4) {{ {table} = {shown} }}\n"
    elif table == "partition":
        plan = f"{frame()}\nverticals shown of digits = {shown}\n"
    else:
        plan = f"{frame()}\nnetwork shown = {shown}\n{_model_phase(spec.name)}\n"
        if spec.name == "alexnet":
            plan = plan.replace(FRAME["digits"], "data digits = digits { augment = [resize(64)] }")
    return Example(f"{table} {spec.name}", shown, plan)


def _detection(
    measure: str = "",
    network: str = 'detector("retinanet", backbone = "resnet18", classes = boxes.classes)',
    loss: str = SIGNAL_EXAMPLES["targets"],
) -> str:
    return _DETECTION.format(network=network, loss=loss, measure=measure)


def _model_phase(name: str) -> str:
    """A phase that trains the network `shown`: by itself, or as a part behind another one."""
    if name in ("conv1x1", "linear", "autoencoder"):
        tap = "features" if name == "linear" else "layer2"
        loss = f"cross_entropy(small.logits, labels) + mean(shown(small.{tap}).output)"
        return f"phase p of small, shown on digits with quick {{ loss = {loss} }}"
    return "phase p of shown on digits with quick { loss = cross_entropy(shown.logits, labels) }"
