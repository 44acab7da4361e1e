"""What SSBTrainer is given: its settings and its model, made right where that is clear, else refused in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import TrainingArguments, set_seed

from ..errors import UserError
from ..io.files import is_finite
from ..method.distributions import Divergence
from ..method.modeling import output_head

REFUSED = {  # arguments of the Trainer
    "compute_metrics": "no logits are made to compute them from; eval_loss, eval_kl and eval_agreement are logged",
    "preprocess_logits_for_metrics": "no logits are made; eval_loss, eval_kl and eval_agreement are logged",
    "compute_loss_func": "its loss is the paper's; what can be set about it are the keys of SSBConfig",
    "data_collator": "it puts batches of pairs together itself; give the rows as they are",
    "model_init": "give the model itself",
}
UNSMOOTHED = "the labels are the teacher's distribution; leave it at 0"
GROUPED = "pairs are drawn at random; leave it at random"
WHOLE = "the loss needs the head in one piece; start one process a GPU with torchrun instead, or use one GPU"


CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # first weights that PEFT takes out of the base


@dataclass
class SSBConfig(TrainingArguments):
    """TrainingArguments with the objective's own settings. Their defaults are the released code's where it has one."""

    kd_temperature: float = field(default=2.0, metadata={"help": "T_KD of Eq. 6; not a sampling temperature."})
    denominator: Literal["example", "token"] = field(
        default="example", metadata={"help": "Mean over examples of token means (Eq. 6), or over all tokens."}
    )
    kd_weight: float = field(default=1.0, metadata={"help": "Weight of T² KL; lambda_KD of the released code."})
    ce_weight: float = field(
        default=0.0, metadata={"help": "Weight of the reply tokens' cross-entropy; lambda_CE of the released code."}
    )
    sharpen: float = field(default=1.0, metadata={"help": "Multiplies the teacher's logits; 1 is the paper."})
    guidance: float | None = field(
        default=None, metadata={"help": "a: teacher on line = base + a (hinted - unhinted); none: the hinted base."}
    )
    window: int | None = field(
        default=None, metadata={"help": "Reply tokens that count, from where hint and base part; none: all."}
    )
    divergence: Divergence = field(
        default="forward", metadata={"help": "forward, KL(teacher || student), is Eq. 6; or reverse, or jsd."}
    )
    beta: float = field(default=0.5, metadata={"help": "The teacher's share of jsd's mixture, between 0 and 1."})
    clip: float | None = field(default=None, metadata={"help": "The most nats that a token's divergence counts."})
    learning_rate: float = field(default=2e-4, metadata={"help": "The released code's."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "The paper's batch (§4.1)."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "The released code's."})
    logging_steps: float = field(default=1, metadata={"help": "The paper's runs have 192 steps: log each."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator takes whole pairs."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kd_temperature", "kd_weight", "ce_weight", "sharpen", "beta", "clip"):
            value = getattr(self, name)
            if name == "clip" and value is None:
                continue
            if not _is_number(value):
                raise ValueError(f"{name}: {value!r:.40} is not a finite number.")
        if self.denominator not in ("example", "token"):
            raise ValueError(f"denominator: {self.denominator!r:.40} is neither example nor token.")
        if self.divergence not in get_args(Divergence):
            raise ValueError(f"divergence: {self.divergence!r:.40} is neither forward nor reverse nor jsd.")
        if not self.kd_temperature > 0:
            raise ValueError(f"kd_temperature: {self.kd_temperature} is not above 0.")
        if not self.sharpen > 0:
            raise ValueError(f"sharpen: {self.sharpen} is not above 0.")
        if not 0 < self.beta < 1:
            raise ValueError(
                f"beta: {self.beta} is not between 0 and 1; the KLs at its ends are divergences themselves."
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip: {self.clip} is not above 0; None counts all.")
        if min(self.kd_weight, self.ce_weight) < 0 or self.kd_weight == self.ce_weight == 0:
            raise ValueError(f"kd_weight, ce_weight: {self.kd_weight}, {self.ce_weight}; one above 0, none below.")
        if self.guidance is not None and not (_is_number(self.guidance) and self.guidance > 0):
            raise ValueError(f"guidance: {self.guidance!r:.40} is neither a number above 0 nor None.")
        if self.window is not None and not (type(self.window) is int and self.window > 0):
            raise ValueError(f"window: {self.window!r:.40} is neither a whole number above 0 nor None.")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns: pairs lose their columns if this is true; leave it false.")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and is_finite(value)


def checked_arguments(args: TrainingArguments | None, others: Mapping[str, Any]) -> SSBConfig:
    """The trainer's arguments; `others` are those that it hands to the Trainer.

    Raises:
        UserError: another trainer's arguments, or what has no effect here.
    """
    args = SSBConfig(output_dir="student") if args is None else args
    if type(args) is TrainingArguments:
        given = args.to_dict() | {
            "hub_token": args.hub_token,
            "remove_unused_columns": False,
        }  # to_dict hides the token
        args = SSBConfig(**given)
    if not isinstance(args, SSBConfig):
        raise UserError(f"args is a {type(args).__name__}; expected an SSBConfig, or TrainingArguments.")
    for key, why in REFUSED.items():
        if others.get(key) is not None:
            raise UserError(f"{key}: SSBTrainer has no use for it; {why}.")
    for key, neutral, why in (
        ("label_smoothing_factor", 0, UNSMOOTHED),
        ("train_sampling_strategy", "random", GROUPED),
        ("fsdp", None, WHOLE),
        ("deepspeed", None, WHOLE),
    ):
        if (value := getattr(args, key, neutral)) and value != neutral:
            raise UserError(f"{key}: {value!r:.40} is nothing that SSBTrainer can follow; {why}.")
    for key in ("fp16", "fp16_full_eval"):
        if getattr(args, key) and args.device.type == "cpu":
            raise UserError(f"{key}: has no effect on a CPU; leave it out, or take bf16.")
    if args.n_gpu > 1:  # the Trainer would make the batch that many times as large
        raise UserError(
            f"One process sees {args.n_gpu} GPUs: show it one (CUDA_VISIBLE_DEVICES=0), or start one process a GPU"
            " with torchrun."
        )
    return args


def student(model: nn.Module, peft_config: PeftConfig | None, seed: int, taught: bool) -> nn.Module:
    """The model that is trained: with a fresh adapter by `peft_config`, or as it is. `taught`: its teacher is stored.

    Raises:
        UserError: two adapters, none, or one that would not be trained; a head or a teacher that would.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model is {model!r:.80}; expected a causal language model, a hub id or a folder.")
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise UserError("The model has an encoder beside its decoder; SSBTrainer trains a decoder alone.")
    if peft_config is not None:
        model = _with_adapter(model, peft_config, seed)
    if not taught and not isinstance(model, PeftModel):
        raise UserError("Without stored targets the teacher is the model with its adapter off: give a peft_config.")
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise UserError(
            f"The adapter is of the kind {kind}, made of tokens; SSBTrainer trains those inside the layers."
        )
    if any(layer.merged for layer in _tuned(model)):
        raise UserError("The adapter is merged into the weights, so it would not be trained: model.unmerge_adapter().")
    head = output_head(model)  # fails where the head is not what the loss needs
    if head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad):
        raise UserError(
            "The output head would be trained, and the teacher has the same one: leave it (and with tied weights the"
            " embedding) frozen, as peft_config does with bias='none'."
        )
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise UserError(
            "No weight of the adapter is to be trained: load it by PeftModel.from_pretrained(..., is_trainable=True),"
            " and leave it on."
        )
    if not taught:
        _check_teacher(model)
    return model


def _with_adapter(model: nn.Module, peft_config: PeftConfig, seed: int) -> nn.Module:
    if isinstance(model, PeftModel) or any(_tuned(model)):
        raise UserError(
            "The model has an adapter already, and peft_config would put a fresh one on top: leave peft_config out to"
            " train the one that is there, or merge that first (model = model.merge_and_unload())."
        )
    if not isinstance(peft_config, PeftConfig):
        raise UserError(f"peft_config is a {type(peft_config).__name__}; expected one of PEFT's, as peft.LoraConfig.")
    set_seed(seed)  # the adapter's first weights are drawn here
    try:
        return get_peft_model(cast(Any, model), peft_config)
    except Exception as error:  # PEFT's are of many kinds: no such module, a pattern that is none
        raise UserError(f"peft_config: it cannot be put on this model: {str(error) or type(error).__name__}") from None


def _check_teacher(model: nn.Module) -> None:
    """Whether the teacher stays as it is: nothing is trained that is left when the adapter is off."""
    starts = {str(getattr(one, "init_lora_weights", True)).lower() for one in cast(Any, model).peft_config.values()}
    if changed := sorted(start for start in starts if start.startswith(CHANGES_BASE)):
        raise UserError(
            f"init_lora_weights: {changed[0]} takes a part of the base into the adapter, so that without the adapter"
            " the teacher would be another model: leave it at True, or store the teacher's targets first."
        )
    if any(getattr(one, "layer_replication", None) for one in cast(Any, model).peft_config.values()):
        raise UserError("layer_replication: the teacher would have the repeated layers as well; leave it out.")
    switched = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        for name in module.adapter_layer_names
        if isinstance(part := getattr(module, name, None), nn.Module)
        for parameter in part.parameters()
    }
    moved = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in switched]
    if moved:
        raise UserError(
            f"{moved[0]} and {len(moved) - 1} more would be trained, and they are the teacher's as well, which would"
            " change with the student: take bias='none', and freeze the base; or store the teacher's targets first."
        )


def _tuned(model: nn.Module) -> Iterator[BaseTunerLayer]:
    return (module for module in model.modules() if isinstance(module, BaseTunerLayer))
