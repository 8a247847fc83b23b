"""Names and defaults of the flags are those of the settings, and of the authors."""

import dataclasses

from absl import flags as absl_flags

from flags.definitions import ACCEPTED_WITHOUT_EFFECT, defined_flags
from tests.flags.parsing import parse
from tf_simclr.config import TOOLS, ExperimentConfig, LabelEfficiencyConfig

# The flags of the authors' TF2 program with its defaults. Three differ on purpose: --mode, --use_tpu, --train_split.
# Theirs of the last is train: unset means that, and for learning without labels unlabelled too.
AUTHORS_DEFAULTS = """
    mode=train_then_eval train_mode=pretrain dataset=imagenet2012 cache_dataset=False use_tpu=None train_split=None
    learning_rate=0.3 learning_rate_scaling=linear warmup_epochs=10.0 weight_decay=1e-06 optimizer=lars momentum=0.9
    train_batch_size=512 train_epochs=100 train_steps=0 eval_steps=0 eval_batch_size=256 batch_norm_decay=0.9
    checkpoint_epochs=1 checkpoint_steps=0 keep_checkpoint_max=5 keep_hub_module_max=1
    lineareval_while_pretraining=True zero_init_logits_layer=False fine_tune_after_block=-1 ft_proj_selector=0
    temperature=0.1 hidden_norm=True proj_head_mode=nonlinear proj_out_dim=128 num_proj_layers=3 global_bn=True
    width_multiplier=1.0 resnet_depth=50 sk_ratio=0.0 se_ratio=0.0 image_size=224
    color_jitter_strength=1.0 use_blur=True
    data_dir=None model_dir=None checkpoint=None eval_split=None eval_name=None
    tpu_name=None tpu_zone=None gcp_project=None master=None"""
OTHERS = [LabelEfficiencyConfig, *TOOLS.values()]


def fields_of(tool):
    fields = {field.name for field in dataclasses.fields(tool) if not dataclasses.is_dataclass(field.type)}
    return fields - {"stated", "explicit"}  # These follow from which flags are given.


def test_flags_are_the_fields_of_the_configuration():
    special = set(absl_flags.FlagValues())
    names = set(defined_flags()) - special - set(ACCEPTED_WITHOUT_EFFECT)
    assert names == set(ExperimentConfig().to_dict()).union(*map(fields_of, OTHERS))


def test_flags_of_the_authors_have_their_defaults():
    expected = dict(pair.split("=") for pair in AUTHORS_DEFAULTS.split())
    flags, config = defined_flags(), parse("--dataset=cifar10").to_dict()
    assert {name: str(flags[name].default) for name in expected} == expected
    assert {name: str(config[name]) for name in expected} == expected | {
        "dataset": "cifar10",
        "model_dir": "runs/cifar10-pretrain",
    }
