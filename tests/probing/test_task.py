import numpy as np
import pytest

from toolkit.errors import UsageError
from toolkit.probing.task import Task, encode, infer_task


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["b", "a", "a"], "binary", ("a", "b")),
        (["10", "9", "2"], "multiclass", ("2", "9", "10")),
        (["a;b", "b", ""], "multilabel", ("a", "b")),
        ([str(i / 2) for i in range(11)], "regression", ()),
        ([str(i) for i in range(10)] * 3, "multiclass", tuple(str(i) for i in range(10))),
        ([*(str(i) for i in range(11)), "x"], "multiclass", (*sorted(map(str, range(11))), "x")),
    ],
)
def test_the_cells_say_which_task_it_is(values: list[str], kind: str, classes: tuple[str, ...]) -> None:
    assert infer_task(values) == Task(kind, "label", classes)


def test_labels_become_numbers() -> None:
    np.testing.assert_array_equal(encode(["b", "a"], Task("binary", "label", ("a", "b"))), [1, 0])
    y = encode(["a; b", "", "b"], Task("multilabel", "label", ("a", "b")))
    np.testing.assert_array_equal(y, [[1, 1], [0, 0], [0, 1]])
    np.testing.assert_array_equal(encode(["1.5", "2"], Task("regression", "hr", ())), [1.5, 2])
    with pytest.raises(UsageError, match="'label' holds c"):
        encode(["c"], Task("binary", "label", ("a", "b")))


@pytest.mark.parametrize(
    ("values", "asked", "words"),
    [
        (["sick"] * 7, "auto", ["'sick'", "7 rows"]),
        (["sick"] * 7, "multilabel", ["'sick'", "7 rows"]),
        (["3"] * 4, "regression", ["one value", "4 rows"]),
        (["1", "x", "2"], "regression", ["1 of 3", "'x'"]),
        (["a", "b", "c", "c"], "binary", ["has 3", "c (2)"]),
        (["a", "", "b"], "auto", ["1 of 3"]),
        (["a", "b"], "regresion", ["regresion", "regression"]),
    ],
)
def test_unusable_labels_are_named_and_counted(values: list[str], asked: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        infer_task(values, asked, "diagnosis")
    assert all(word in str(error.value) for word in words)
