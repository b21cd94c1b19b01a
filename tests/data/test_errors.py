"""Every mistake with data has its own clear error."""

from pathlib import Path

import numpy as np
import pytest

from kdplan.data.catalog import describe, open_source
from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.params import bind
from kdplan.data.select import choose
from kdplan.data.transforms import out_shape, transform
from kdplan.data.view import SplitRule, ViewSpec
from kdplan.diagnostics.report import PlanError, table
from kdplan.diagnostics.span import Source, Span
from kdplan.ir import user_code
from kdplan.ir.spec import REQUIRED, Param
from kdplan.ir.trust import trusting

SPAN = Span(Source("a.kd", "data d = digts"), 9, 14)

ROOT = Path(__file__).parents[2]


def _code(call, *args, **kwargs):
    with pytest.raises(PlanError) as e:
        call(*args, **kwargs)
    (found,) = e.value.diagnostics
    return found


def test_unknown_source():
    found = _code(describe, "digts", {}, None, span=SPAN)
    assert (found.code, found.help, found.span) == ("KD0710", "Did you mean `digits`?", SPAN)


def test_no_root():
    found = _code(describe, "cifar100", {}, None)
    assert found.code == "KD0711" and "KDPLAN_DATA" in found.help


def test_root_missing(tmp_path):
    assert _code(describe, "cifar100", {}, tmp_path / "nothing").code == "KD0712"


def test_files_missing(tmp_path, images):
    found = _code(describe, "cifar100", {}, tmp_path)
    assert found.code == "KD0713" and "cifar-100-binary" in found.message and "cifar-100-python" in found.message
    (tmp_path / "cifar-100-binary").mkdir()
    assert _code(describe, "cifar100", {}, tmp_path).code == "KD0713"
    assert _code(describe, "arrays", {"path": "a.npz"}, tmp_path).code == "KD0713"
    assert _code(describe, "image_folder", {"path": "a"}, tmp_path).code == "KD0713"
    images(tmp_path / "imagenet", splits=("train",))
    assert _code(describe, "imagenet", {}, tmp_path).code == "KD0713"


def test_empty_folder(tmp_path, images):
    (tmp_path / "a").mkdir()
    assert _code(describe, "image_folder", {"path": "a"}, tmp_path).code == "KD0714"
    (tmp_path / "a" / "train").mkdir()
    assert _code(describe, "image_folder", {"path": "a"}, tmp_path).code == "KD0714"
    images(tmp_path / "b")
    (tmp_path / "b" / "train" / "dog").mkdir()
    found = _code(describe, "image_folder", {"path": "b"}, tmp_path)
    assert found.code == "KD0714" and "dog" in found.message


def test_truncated(tmp_path, mnist, images):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(b"\0" * 3074 * 10)
    found = _code(describe, "cifar100", {}, tmp_path)
    assert found.code == "KD0715" and "30,740" in found.message and "153,700,000" in found.message
    for zipped in (False, True):
        raw = mnist(tmp_path / str(zipped), zipped)
        path = next(raw.glob("train-images*"))
        path.write_bytes(path.read_bytes()[:-9])
        assert _code(describe, "mnist", {}, tmp_path / str(zipped)).code == "KD0715"
    np.save(tmp_path / "a.npy", np.zeros((9, 9)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    assert _code(describe, "arrays", {"path": "a.npy"}, tmp_path).code == "KD0715"
    images(tmp_path / "b")
    (tmp_path / "b" / "val" / "ant" / "0.png").write_bytes(b"")
    assert _code(describe, "image_folder", {"path": "b"}, tmp_path).code == "KD0715"


def test_truncated_pickles(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    with (folder / "train").open("wb") as file:
        file.truncate(50000 * 3072 + 9)
    assert _code(describe, "cifar100", {}, tmp_path).code == "KD0715"


def test_no_such_split():
    found = _code(open_view, ViewSpec("digits", split="tset"), None)
    assert found.code == "KD0716" and found.help == "Did you mean `test`?"
    rule = SplitRule("fraction", (("train", 0.5),))
    assert "train, val, test" in _code(open_view, ViewSpec("digits", split="dev", rule=rule), None).message


def test_labels_out_of_range(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=[1, 2, 1, 2], classes=["no", "yes"])
    spec = ViewSpec("arrays", (("path", "a.npz"),))
    found = _code(open_view, spec, tmp_path)
    assert found.code == "KD0717" and "from 1 to 2" in found.message and found.help == "Count labels from 0 to 1."
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=[0, 1, -1, 0])
    assert _code(open_view, spec, tmp_path).code == "KD0717"


def test_user_function_raises(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def make():\n    x = 1\n    return x / 0\n")
    found = _code(describe, "source", {"function": f"{path}:make"}, None)
    assert found.code == "KD0718"
    assert "ZeroDivisionError" in found.message and f"{path}:3" in found.message
    user_code.begin()
    path.write_text("import nothing_of_this_name\n")
    found = _code(describe, "source", {"function": f"{path}:make"}, None)
    assert found.code == "KD0718" and f"{path}:1" in found.message
    user_code.begin()
    path.write_text("def make(:\n")
    assert f"{path}:1" in _code(describe, "source", {"function": f"{path}:make"}, None).message
    with trusting(["no_module_of_this_name"]):
        found = _code(describe, "source", {"function": "no_module_of_this_name:make"}, None)
    assert found.code == "KD0718" and "no_module_of_this_name" in found.message
    user_code.begin()
    path.write_text("def make(n):\n    return n\n")
    assert "unexpected keyword" in _code(describe, "source", {"function": f"{path}:make", "m": 1}, None).message


ARRAYS = "import numpy as np\ndef f(): return {'train': (np.zeros((3, 4)), [0, 1, 0]), "


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("def f(): return 3", "returns int"),
        ("def f(): return {}", "no split"),
        ("def f(): return {'train': 3}", "no pair"),
        ("import numpy as np\ndef f(): return {'train': (np.zeros((3, 4)), [0, 1])}", "for 3 samples"),
        ("import numpy as np\ndef f(): return {'train': (np.full((3, 4), np.nan), None)}", "finite"),
        ("import numpy as np\ndef f(): return {'train': (np.zeros(3), None)}", "shape [3]"),
        (
            "import numpy as np\ndef f(): return {'a': (np.zeros((3, 4)), None), 'b': (np.zeros((3, 5)), None)}",
            "different",
        ),
        ("g = 1", "has no function"),
        (f"{ARRAYS}'classes': 3}}", "`classes` are names"),
        (f"{ARRAYS}'superclasses': [1]}}", "`superclasses` names"),
        (f"{ARRAYS}'mean': 'grey'}}", "numbers of each channel"),
        ("import torch\ndef f(): return {'train': (torch.zeros(3, 4).bfloat16(), None)}", "`train` cannot be made"),
        ("import torch\ndef f(): return {'train': (torch.zeros(3, 4, requires_grad=True), None)}", "`train` cannot be"),
    ],
)
def test_user_function_gives_nonsense(tmp_path, text, part):
    (tmp_path / "mine.py").write_text(text)
    found = _code(describe, "source", {"function": f"{tmp_path / 'mine.py'}:f"}, None)
    assert found.code == "KD0719" and part in found.message


def test_unknown_argument():
    found = _code(transform, "pad_crop", [32], {"pat": 3})
    assert found.code == "KD0720" and found.help == "Did you mean `pad`?"
    assert _code(describe, "digits", {"path": "x"}, None).code == "KD0720"


@pytest.mark.parametrize(
    ("name", "args", "part"),
    [
        ("pad_crop", {"size": 3.5}, "an integer, at least 1; it is 3.5"),
        ("pad_crop", {"size": 0}, "at least 1"),
        ("pad_crop", {"size": 8, "fill": 256}, "from 0 to 255"),
        ("flip", {"p": 2}, "from 0 to 1"),
        ("flip", {"p": True}, "True"),
        ("rotation", {"degrees": "much"}, "a number"),
        ("random_resized_crop", {"size": 8, "scale": [0.5, 0.1]}, "smaller first"),
        ("random_resized_crop", {"size": 8, "scale": 0.5}, "a list of numbers"),
    ],
)
def test_wrong_argument(name, args, part):
    found = _code(transform, name, [], args)
    assert found.code == "KD0721" and part in found.message


@pytest.mark.parametrize("settings", [{"fraction": 0}, {"fraction": 1.5}, {"limit": 0}])
def test_wrong_share(settings):
    assert _code(open_view, ViewSpec("digits", **settings), None).code == "KD0721"


@pytest.mark.parametrize("normalize", [((0.5,), (0.0,)), ((0.5, 0.5), (1.0, 1.0)), ((0.5,), (1.0, 1.0))])
def test_wrong_normalisation(normalize):
    assert _code(open_view, ViewSpec("digits", normalize=normalize), None).code == "KD0721"


def test_fractions_above_everything():
    rule = SplitRule("fraction", (("train", 0.9), ("val", 0.2)))
    assert _code(open_view, ViewSpec("digits", rule=rule), None).code == "KD0721"


def test_missing_argument():
    assert _code(transform, "pad_crop").code == "KD0722"


def test_too_many_arguments():
    assert _code(transform, "flip", [0.5, 1]).code == "KD0723"


def test_argument_twice():
    assert _code(bind, "f", [Param("a", "integer", REQUIRED, "")], [1], {"a": 2}).code == "KD0724"


def test_unknown_transform():
    found = _code(transform, "flipp", span=SPAN)
    assert (found.code, found.help, found.span) == ("KD0725", "Did you mean `flip`?", SPAN)


def test_damaged(tmp_path, mnist):
    (tmp_path / "a.npz").write_bytes(b"no zip")
    assert _code(describe, "arrays", {"path": "a.npz"}, tmp_path).code == "KD0726"
    np.savez(tmp_path / "b.npz", z=np.zeros(3))
    found = _code(describe, "arrays", {"path": "b.npz"}, tmp_path)
    assert found.code == "KD0726" and "but z" in found.message
    np.savez(tmp_path / "c.npz", x=np.array([{}], dtype=object))
    found = _code(describe, "arrays", {"path": "c.npz"}, tmp_path)
    assert found.code == "KD0726"
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 4)), y=[0.5, 1, 2])
    assert "integers" in _code(describe, "arrays", {"path": "d.npz"}, tmp_path).message
    raw = mnist(tmp_path)
    next(raw.glob("t10k-images*")).write_bytes(b"no idx, but long enough for a header")
    assert _code(describe, "mnist", {}, tmp_path).code == "KD0726"
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn" / "train_32x32.mat").write_bytes(b"no mat")
    assert _code(describe, "svhn", {}, tmp_path).code == "KD0726"


def test_labels_and_images_must_agree(tmp_path, mnist):
    raw = mnist(tmp_path)
    (raw / "t10k-labels-idx1-ubyte").write_bytes((raw / "train-labels-idx1-ubyte").read_bytes())
    assert _code(describe, "mnist", {}, tmp_path).code == "KD0726"


def test_too_few_for_split():
    rule = SplitRule("per_class", (("train", 100), ("val", 50)))
    found = _code(open_view, ViewSpec("digits", rule=rule), None)
    assert found.code == "KD0727" and "150" in found.message


@pytest.mark.parametrize("classes", [(0, 10), (-1,), (3, 3)])
def test_wrong_classes(classes):
    assert _code(open_view, ViewSpec("digits", classes=classes), None).code == "KD0728"


def test_nothing_left():
    rule = SplitRule("fraction", (("train", 1.0),))
    assert _code(choose, ViewSpec("digits", split="val", rule=rule), open_source("digits", {}, None)).code == "KD0729"
    assert _code(open_view, ViewSpec("digits", classes=()), None).code == "KD0729"


def test_transform_does_not_fit(tmp_path, images):
    assert _code(out_shape, (1, 8, 8), [transform("random_crop", [9])]).code == "KD0730"
    assert _code(out_shape, (5,), [transform("flip")]).code == "KD0730"
    assert _code(out_shape, (2, 8, 8), [transform("to_rgb")]).code == "KD0730"
    images(tmp_path / "a")
    found = _code(open_view, ViewSpec("image_folder", (("path", "a"),)), tmp_path, cache=tmp_path)
    assert found.code == "KD0730" and "differing sizes" in found.message
    small = ViewSpec("image_folder", (("path", "a"),), augment=(transform("center_crop", [100]),))
    data = open_view(small, tmp_path, cache=tmp_path)
    found = _code(list, Loader(data, 2, 0, False).epoch(0))
    assert found.code == "KD0730" and ".png" in found.notes[0].text


def test_unreadable_image(tmp_path, images):
    images(tmp_path / "a")
    bad = tmp_path / "a" / "train" / "ant" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    view = ViewSpec(
        "image_folder", (("path", "a"),), augment=(transform("resize", [16]), transform("center_crop", [16]))
    )
    data = open_view(view, tmp_path, cache=tmp_path)
    found = _code(list, Loader(data, 4, 0, False).epoch(0))
    assert found.code == "KD0731" and "1.png" in found.message


def test_batch_larger_than_data():
    data = open_view(ViewSpec("digits", limit=20), None)
    assert _code(Loader, data, 21, 0, True, drop_last=True).code == "KD0732"
    assert Loader(data, 21, 0, True).steps_per_epoch == 1


def test_class_folders_differ(tmp_path, images):
    images(tmp_path / "a")
    images(tmp_path / "a", splits=("test",), classes=("ant", "wasp"))
    found = _code(describe, "image_folder", {"path": "a"}, tmp_path)
    assert found.code == "KD0733" and "wasp" in found.message


def test_every_row_names_a_test_that_exists():
    rows = {c: r for c, r in table().items() if "KD0710" <= c < "KD0750"}
    assert len(rows) == 29
    for row in rows.values():
        file, _, test = row["test"].partition("::")
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8")
