"""The contract of a strategy over the class in the file beside this one: `pytest examples/own_strategy`."""

from pathlib import Path

from lifealign.testing import StrategyContract


class TestNearStart(StrategyContract):
    """Every test of the contract, on a tiny random model."""

    strategy = f"{Path(__file__).parent / 'my_strategy.py'}:NearStart"
    settings = ("strategy.pull=0.5",)
