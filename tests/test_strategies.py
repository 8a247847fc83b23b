"""The choice of devices and workers."""

import numpy as np
import pytest
import tensorflow as tf

from tests.networks import run_on_replicas
from tf_simclr import distribute, strategies
from tf_simclr.config import StrategyConfig, UserError


@pytest.mark.parametrize("name", ["auto", "one_device"])
def test_make_strategy_takes_one_device_where_there_is_one(name):
    strategy = strategies.make_strategy(StrategyConfig(strategy=name))
    assert strategy.num_replicas_in_sync == 1


@pytest.mark.distributed
def test_make_strategy_mirrors_all_devices():
    strategy = strategies.make_strategy(StrategyConfig(strategy="mirrored", use_tpu=False))
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == 4


@pytest.mark.distributed
def test_runs_one_after_the_other_in_one_process_do_not_mix_up_their_collectives():
    """A second MirroredStrategy would number its collectives like the first."""
    for dtype, shape in (("float32", (4, 3)), ("float64", (8, 1, 2))):
        replicas = strategies.make_strategy(StrategyConfig(strategy="mirrored"))
        ones = np.ones(shape, dtype)
        for value in run_on_replicas(replicas, distribute.cross_replica_sum, ones):
            np.testing.assert_array_equal(value, 4 * ones[: shape[0] // 4])


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"use_tpu": True, "tpu_name": "local"}, "--tpu_name=local"),
        ({"strategy": "tpu", "master": "local"}, "--master=local"),
        ({"tpu_name": "local"}, "--tpu_name=local"),
        ({"tpu_name": "grpc://127.0.0.1:1"}, "--tpu_name=grpc://127.0.0.1:1"),
    ],
)
def test_make_strategy_says_how_to_go_on_without_a_tpu(settings, flag):
    with pytest.raises(UserError) as caught:
        strategies.make_strategy(StrategyConfig(**settings))
    message = str(caught.value)
    assert message.startswith(flag)
    assert "--use_tpu=False" in message
    assert "\n" not in message
