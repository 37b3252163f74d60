"""The collector of faults."""

import pytest

from auxseg_jax.errors import UserError, collect, fault


def test_faults_of_a_block_are_raised_together():
    with pytest.raises(UserError) as error, collect("photos"):
        fault("one")
        fault("two")
    assert str(error.value) == "photos cannot be used, 2 faults:\n  one\n  two"
    assert error.value.faults == ["one", "two"]
    with collect("photos"):
        pass


def test_a_fault_outside_of_any_block_is_an_error_at_once():
    with pytest.raises(UserError, match=r"^one$"):
        fault("one")


def test_the_innermost_block_collects():
    with collect() as outer:
        with collect() as inner:
            fault("in")
        fault("out")
    assert (outer, inner) == (["out"], ["in"])


def test_another_exception_goes_first_and_ends_the_block():
    with pytest.raises(KeyError), collect("photos"):
        fault("one")
        raise KeyError("x")
    with pytest.raises(UserError, match=r"^two$"):
        fault("two")


def test_many_faults_are_counted():
    with pytest.raises(UserError) as error, collect("photos"):
        for k in range(250):
            fault(f"fault {k}")
    assert str(error.value).endswith("fault 199\n  and 50 more") and len(error.value.faults) == 250


def test_faults_of_one_kind_are_listed_together():
    with pytest.raises(UserError) as error, collect("photos"):
        for k in range(30):
            fault(f"p{k}: Saliency/p{k}.png is {k}x5, the photo 5x5")
        fault("p1: no photo")
    assert str(error.value).splitlines()[1:] == [
        *(f"  p{k}: Saliency/p{k}.png is {k}x5, the photo 5x5" for k in range(3)),
        f"  the same of 27 others: {', '.join(f'p{k}' for k in range(3, 23))} and 7 more",
        "  p1: no photo",
    ]
    assert len(error.value.faults) == 31


def test_a_line_does_not_stand_for_a_single_fault():
    with pytest.raises(UserError) as error, collect("photos"):
        for k in range(4):
            fault(f"p{k}: no photo")
    assert "others" not in str(error.value)
