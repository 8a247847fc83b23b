"""LARS, and the other optimizers of the authors' code under one roof."""

import collections
import contextlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.config import UserError, check
from tf_simclr.distribution import collectives


def lars_update(
    variable: tf.Tensor,
    gradient: tf.Tensor,
    *,
    learning_rate: float | tf.Tensor,
    weight_decay: float,
    trust_coefficient: float,
) -> tf.Tensor:
    """Layer-wise adaptive rate scaling: a step that fits the size of the variable, for momentum.

    LARS (arXiv 1708.03888), algorithm 1, with the difference of the authors' code: the denominator is the
    norm of the decayed gradient, not the sum of two norms. No Nesterov step.

        g <- g + weight_decay * w
        trust = trust_coefficient * |w| / |g|, or 1 if either norm is 0
        step = learning_rate * trust * g

    Plain momentum follows; the step of an excluded variable is `learning_rate * g`:

        v <- momentum * v + step
        w <- w - v

    Args:
        variable: w, float32 or float64, of any shape.
        gradient: g, same dtype and shape.
        learning_rate: float or `[]` in the variable's dtype, >= 0.
        weight_decay: >= 0.
        trust_coefficient: > 0; the paper uses 0.001.

    Returns:
        The step, of the variable's dtype and shape.
    """
    gradient = gradient + weight_decay * variable
    # |v|^2 / 2 is one kernel; the halves cancel.
    ratio = tf.math.divide_no_nan(tf.sqrt(tf.nn.l2_loss(variable)), tf.sqrt(tf.nn.l2_loss(gradient)))
    trust = tf.where(ratio > 0, trust_coefficient * ratio, tf.ones_like(ratio))
    return learning_rate * trust * gradient


@tf.keras.utils.register_keras_serializable(package="tf_simclr")
class LARS(tf.keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling: momentum on the steps of `lars_update`.

    LARS (arXiv 1708.03888). Unlike the usual implementations it excludes variables by object, not by
    patterns of names, so that renaming a layer changes nothing.

    Args:
        learning_rate: float, or a schedule such as `WarmupCosine`. A float is kept in float32 by Keras.
        excluded: the variables without decay and trust ratio (batch norm, biases, the supervised head);
            `()` for none. `get_config` cannot serialise them, so `from_config` needs them again.
        momentum: in [0, 1).
        weight_decay: >= 0.
        trust_coefficient: > 0.
        name: name of the optimizer.
        **kwargs: those of `tf.keras.optimizers.Optimizer`. `jit_compile` is off by default, because the
            training step decides about compilation.

    Raises:
        ValueError: if momentum, weight decay or trust coefficient is out of range.
    """

    def __init__(
        self,
        learning_rate: float | Callable[..., tf.Tensor],
        *,
        excluded: Sequence[Any],
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        name: str = "LARS",
        **kwargs: Any,
    ) -> None:
        if not 0 <= momentum < 1 or weight_decay < 0 or trust_coefficient <= 0:
            raise ValueError(
                "LARS needs momentum in [0, 1), weight_decay of at least 0 and trust_coefficient above 0; "
                f"received {momentum}, {weight_decay} and {trust_coefficient}."
            )
        kwargs.setdefault("jit_compile", False)
        # Keras' own weight decay, which bypasses gradient and momentum, is off with None (not with 0).
        super().__init__(name=name, weight_decay=None, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self._momentum = float(momentum)
        self._gradient_decay = float(weight_decay)
        self._trust_coefficient = float(trust_coefficient)
        # Keras' key is the same for a distributed variable and for its parts on the replicas.
        self._excluded = frozenset(self._var_key(variable) for variable in excluded)

    def build(self, var_list: Sequence[Any]) -> None:
        """Makes the velocity v of each variable to train."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._velocities = [
            self.add_variable_from_reference(model_variable=variable, variable_name="velocity") for variable in var_list
        ]
        self._built = True

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Updates a variable that the optimizer was built for, and its velocity."""
        key = self._var_key(variable)
        learning_rate = tf.cast(self.learning_rate, variable.dtype)
        if key in self._excluded:
            step = learning_rate * gradient
        else:
            step = lars_update(
                tf.convert_to_tensor(variable),
                gradient,
                learning_rate=learning_rate,
                weight_decay=self._gradient_decay,
                trust_coefficient=self._trust_coefficient,
            )
        # One kernel, in place: several would hold a copy of every variable each.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self._velocities[self._index_dict[key]].handle,
            lr=tf.ones([], variable.dtype),
            grad=step,
            momentum=tf.constant(self._momentum, variable.dtype),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of an equal optimizer, without `excluded`."""
        return dict(super().get_config()) | {
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "momentum": self._momentum,
            "weight_decay": self._gradient_decay,
            "trust_coefficient": self._trust_coefficient,
        }


def make_optimizer(
    name: str,
    *,
    learning_rate: float | Callable[..., tf.Tensor],
    momentum: float,
    weight_decay: float,
    excluded: Sequence[Any],
) -> Any:
    """Makes one of the optimizers of the authors' code; call it inside the strategy's scope.

    `weight_decay` and `excluded` act inside LARS and LAMB only. For `momentum` and `adam` the task adds the L2
    penalty (`losses.l2_loss`) to the loss.

    Args:
        name: `lars`, `lamb` (tensorflow-addons), `momentum` (SGD with Nesterov momentum) or `adam`.
        learning_rate: float or schedule.
        momentum: in [0, 1); for `lars` and `momentum`.
        weight_decay: >= 0; for `lars` and `lamb`.
        excluded: variables without decay and trust ratio; for `lars` and `lamb`.

    Returns:
        A Keras optimizer, new style but for `lamb`, which is a legacy one. `build_optimizer` and
        `apply_gradients` treat them alike.

    Raises:
        UserError: if the name is unknown, or this environment has no `lamb`.
    """
    if name == "lars":
        return LARS(learning_rate, excluded=excluded, momentum=momentum, weight_decay=weight_decay)
    if name == "lamb":
        return _make_lamb(learning_rate, weight_decay, excluded)
    if name == "momentum":
        return tf.keras.optimizers.SGD(learning_rate, momentum=momentum, nesterov=True, jit_compile=False)
    check(name == "adam", "optimizer", name, "use one of lars, lamb, momentum, adam.")
    return tf.keras.optimizers.Adam(learning_rate, jit_compile=False)


def build_optimizer(optimizer: Any, variables: Sequence[Any]) -> None:
    """Makes all state of an optimizer before its first step, so that a checkpoint can restore it.

    Args:
        optimizer: from `make_optimizer`.
        variables: the variables to train, in the order of every later call.

    Raises:
        ValueError: if the optimizer is LAMB and an excluded variable shares its name with one that is not.
    """
    variables = list(variables)
    # The state of a strategy's variables must be made in its scope, even if the caller is outside.
    strategy = getattr(variables[0], "distribute_strategy", None) if variables else None
    with strategy.scope() if strategy else contextlib.nullcontext():
        if not _is_legacy(optimizer):
            optimizer.build(variables)
            return
        _check_names(optimizer, variables)
        optimizer._create_all_weights(variables)


def apply_gradients(
    optimizer: Any,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[Any],
    *,
    where: tf.Tensor | None = None,
) -> None:
    """Applies gradients that are already summed over the replicas; call it in replica context.

    Args:
        optimizer: from `make_optimizer`.
        gradients: one for each variable, in its dtype and shape, equal on all replicas.
        variables: the variables that `build_optimizer` was given.
        where: bool `[]`, equal on all replicas: false only counts the step and leaves the variables and the
            optimizer's state as they are; None for true.

    Raises:
        ValueError: if a gradient is missing: the loss does not depend on that variable.
    """
    pairs = list(zip(gradients, variables, strict=True))
    unreachable = [variable.name for gradient, variable in pairs if gradient is None]
    if unreachable:
        raise ValueError(f"the loss does not depend on these variables; leave them out: {', '.join(unreachable)}.")
    state: list[Any] = []
    if where is not None:
        state = [*variables, *(v for v in optimizer.variables() if v is not optimizer.iterations)]
    # The optimizer has collectives, which cannot run in one branch of a condition.
    before = [tf.identity(variable) for variable in state]
    if _is_legacy(optimizer):
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    else:
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
    if where is not None:
        kept = [tf.where(where, variable, old) for variable, old in zip(state, before, strict=True)]
        collectives.assign_on_replicas(state, kept)


def _check_names(lamb: Any, variables: Sequence[Any]) -> None:
    """Raises ValueError if a name stands for both excluded and other variables."""
    patterns = collections.Counter(lamb.exclude_from_weight_decay or ())
    for name, count in collections.Counter(variable.name for variable in variables).items():
        if 0 < patterns[_exact_name_pattern(name)] < count:
            raise ValueError(
                f"LAMB tells variables apart by name; received {count} variables named {name}, "
                "some excluded and some not. Give them different names."
            )


def _is_legacy(optimizer: Any) -> bool:
    return isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer)


def _make_lamb(learning_rate: float | Callable[..., tf.Tensor], weight_decay: float, excluded: Sequence[Any]) -> Any:
    if sys.version_info >= (3, 12):
        raise UserError(
            "--optimizer=lamb: needs tensorflow-addons, which has no release for Python 3.12 or newer; "
            "use Python 3.10 or 3.11, or --optimizer=lars."
        )
    try:
        with warnings.catch_warnings():
            # Every import announces the end of its development.
            warnings.filterwarnings("ignore", message=r"\s*TensorFlow Addons \(TFA\) has ended", category=UserWarning)
            from tensorflow_addons.optimizers import LAMB
    except ImportError as error:
        raise UserError(
            "--optimizer=lamb: needs tensorflow-addons, which cannot be imported here; "
            "use Python 3.10 or 3.11 with tensorflow-addons==0.23.0, or --optimizer=lars."
        ) from error
    patterns = [_exact_name_pattern(variable.name) for variable in excluded]
    return LAMB(learning_rate, weight_decay=weight_decay, exclude_from_weight_decay=patterns or None)


def _exact_name_pattern(name: str) -> str:
    """Returns a pattern of one variable's name and nothing else; on a replica the name has a suffix."""
    stem, _, output = name.partition(":")
    return rf"^{re.escape(stem)}(/replica_\d+)?:{output or '0'}$"
