import numpy as np
import pytest

from mopo_eval.figures import Figure, Shares
from mopo_eval.intervals import interval


def test_samples_of_a_prompt_are_averaged_first_and_silence_is_no_value() -> None:
    shares = Shares(["a", "b", "c"])
    for prompt, value in (("a", 1.0), ("a", 0.0), ("b", 1.0)):  # nothing is told of "c"
        shares.add("policy-00", "factuality", "supported", prompt, value)
    shares.add("reference", "factuality", "supported", "a", 1.0)
    found, alone = shares.figures(0.9)
    assert found.rate is not None
    low, high = interval(np.array([0.5, 1.0]), 0.9)
    assert found.rate.model_dump() == pytest.approx({"mean": 0.75, "low": low, "high": high, "n": 2})
    assert alone == Figure(policy="reference", objective="factuality", name="supported", rate=None)  # one prompt
    assert shares.subjects == [("policy-00", "factuality"), ("reference", "factuality")]
    assert shares.rate("policy-00", "factuality", "contradicted", 0.9) is None
