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
