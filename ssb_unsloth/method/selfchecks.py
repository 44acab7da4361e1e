"""What is looked at once, before a GPU works for hours: that model and tokenizer are what the method takes them for.

Of a chat template: that everything said stands in the prompt, once. Of an architecture, from its config alone: what the
head does to logits. Of a loaded model, on short sequences: head(hidden) against its own logits, the likelihood that the
teacher gives its own replies, the fresh student against the teacher in the same context, and after the training the
student against its base. Every complaint is a UserError that says what was found and what to do.

Shapes: S sequence, N reply tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..backends.chat_template import check_prompt, end_of_turn, render
from ..backends.classes import auto_class, config_of
from ..backends.rendered import as_text
from ..backends.sources import unloadable
from ..backends.wrapped import causal_lm, embedded
from ..errors import UserError
from ..prompts import Texts, student_messages, teacher_messages
from ..recipe.methods import METHODS
from ..recipe.schema import ModelConfig, Recipe
from .collator import Example, contexts, make_view
from .distributions import StoredTeacher, placed
from .guidance import states, teacher_rows
from .losses import head_logits, kd_loss, row_weights
from .modeling import as_teacher, backbone, hidden_states, output_head, reply_states, resting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = "Mia has 12 shells and gives 5 of them to Tom. How many has she left?"
RIGHT, WRONG = "She has 12 - 5 = \\boxed{7} left.", "She has 12 + 5 = \\boxed{17} left."
TOKENS = 64  # of a sequence that is looked at
EXAMPLES = 8  # whose likelihood is looked at
*_OTHERS, _LAST = [name for name, method in METHODS.items() if not method.by_backend]
OTHER_METHODS = f"take another model, or train.method {', '.join(_OTHERS)} or {_LAST}, which need no hidden states"


def check_template(tokenizer: PreTrainedTokenizerBase, texts: Texts) -> None:
    """Student's and teacher's messages each stand once in the rendered prompt, whatever blanks the template changes."""
    for messages in (student_messages(QUESTION, texts), teacher_messages(QUESTION, RIGHT, WRONG, texts)):
        check_prompt(as_text(tokenizer, messages, prompt=True), messages, f"The chat template of {_name(tokenizer)}")


def check_end_is_known(tokenizer: PreTrainedTokenizerBase, model: nn.Module, name: str) -> None:
    """The token that ends a reply is one that the model, called `name`, can say."""
    end, rows = end_of_turn(tokenizer), embedded(model)
    if end >= rows:
        raise UserError(
            f"{name}: its chat template ends a reply in {tokenizer.convert_ids_to_tokens(end)!r}, token {end}, and the"
            f" model has {rows:,} tokens: set model.end_of_turn to one that it has, or model.chat_template to another"
            " template."
        )


def skeleton(model: ModelConfig) -> nn.Module:
    """The model from its config alone: all its modules, and no weights (torch's meta device).

    Raises:
        UserError: there is no such config, or transformers knows no language model of that kind.
    """
    try:
        config = config_of(model)
        with torch.device("meta"):
            lm: nn.Module = auto_class(config).from_config(config, trust_remote_code=model.trust_remote_code)
    except Exception as error:  # what a config can be wrong in has no end
        raise unloadable(f"Model {model.name!r}", model, error) from None
    return lm.eval()


@dataclass
class _States(BaseModelOutputWithPast):
    """What a backbone returns, with nothing but hidden states in it."""

    def __getattr__(self, name: str) -> None:
        return None


def check_arithmetic(lm: Any, name: str) -> None:
    """What the architecture does to its head's logits is what `modeling.output_head` says. Needs no weights: the
    backbone of `lm`, a skeleton, is given made-up states for an answer and its head a few made-up words. Uses `lm` up.

    An architecture that cannot be asked in this way is left to `check_head`, which has its weights.
    """
    layer = lm.get_output_embeddings()
    output_head(lm)  # refuses what is no plain linear head
    draw = torch.Generator().manual_seed(0)
    few = nn.Linear(layer.in_features, 16, bias=layer.bias is not None)
    hidden_1SH: Any = torch.randn((1, 8, layer.in_features), generator=draw)
    with torch.no_grad():
        few.weight.copy_(torch.randn(few.weight.shape, generator=draw) * 60 / layer.in_features**0.5)  # as far as caps
        if few.bias is not None:
            few.bias.copy_(torch.randn(few.bias.shape, generator=draw) * 30)
        try:
            lm.set_output_embeddings(few)
            for part in {lm.base_model, backbone(lm)} - {lm}:
                part.forward = lambda *_, **__: _States(last_hidden_state=hidden_1SH)
            theirs = lm(input_ids=torch.zeros((1, 8), dtype=torch.int64)).logits
            ours = head_logits(hidden_1SH, output_head(lm))
        except RuntimeError as error:  # torch's: a layer without weights, or of another width
            raise UserError(
                f"{name}: between its hidden states and its head there is another layer ({_first_line(error)}):"
                f" {OTHER_METHODS}."
            ) from error
        except Exception:  # it wants more of its backbone than states
            return
    _compare(ours, theirs, name)


def check_teacher(recipe: Recipe, model: nn.Module, examples: Sequence[Example]) -> None:
    """The loaded teacher, before its pass over all pairs."""
    check_head(model, examples[0].student_ids)
    if recipe.curate.pairs_file is None:  # else the replies are others'
        check_likelihood(model, examples, hinted=recipe.teach.replies == "refined")


def check_student(recipe: Recipe, model: nn.Module, examples: Sequence[Example], targets: StoredTeacher | None) -> None:
    """The loaded model with its fresh adapter, before the first step. `targets` None: its teacher runs on line."""
    examples = [example for example in examples if example.taught]
    if not examples:
        return
    if targets is None:
        check_teacher(recipe, model, examples)
    if recipe.teach.targets != "one_hot":  # no distribution of the model's
        check_same(model, examples, targets, recipe.train.teacher_temperature, recipe.teach.guidance)


def check_head(model: nn.Module, ids: Sequence[int]) -> None:
    """head(hidden) equals the loaded model's own logits on one short sequence."""
    lm = causal_lm(model)
    head = output_head(model)
    ids_1S = torch.tensor([list(ids[:TOKENS])], device=head.weight.device)
    mask_1S = torch.ones_like(ids_1S)
    name = lm.config.name_or_path or type(lm).__name__
    with as_teacher(model):
        theirs = lm(input_ids=ids_1S, attention_mask=mask_1S, use_cache=False).logits
        try:
            ours = head_logits(hidden_states(model, ids_1S, mask_1S), head)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise UserError(
                f"{name}: its hidden states cannot be had apart ({_first_line(error)}): {OTHER_METHODS}."
            ) from error
    _compare(ours, theirs, name)


def _compare(ours: Tensor, theirs: Tensor, name: str) -> None:
    """Two computations of the same logits [1, S, V]: apart by rounding at most."""
    allowed = 5e-3 if theirs.dtype == torch.float32 else 4e-2  # of the largest
    theirs = theirs.to(ours.dtype)
    if ours.shape == theirs.shape:
        apart, size = (ours - theirs).abs().max().item(), theirs.abs().max().item()
        if apart <= allowed * size:
            return
        found = f"they are up to {apart:.3g} apart, where the largest is {size:.3g}"
    else:
        found = f"they have the shapes {list(ours.shape)} and {list(theirs.shape)}"
    raise UserError(
        f"{name}: the head's logits of the hidden states are not the model's own ({found}). SSB does not know what this"
        f" architecture does to its logits, and would teach another distribution: {OTHER_METHODS}."
    )


def check_likelihood(model: nn.Module, examples: Sequence[Example], hinted: bool = True) -> float:
    """The teacher knows its own replies: nats a token, in the mean over the first of them. Returned.

    `hinted`: whether they were written in the hinted context, or in the bare one.

    More than half of log V is absurd: as if each token were drawn blindly from the square root of V words.
    """
    head = output_head(model)
    losses = []
    with as_teacher(model):
        for example in examples[:EXAMPLES]:
            reply_ids = example.reply_ids[: 4 * TOKENS]
            context_ids = example.teacher_ids if hinted else example.student_ids
            seen = make_view([context_ids], [reply_ids], pad=0)  # one sequence: nothing is padded
            logits_NV = head_logits(reply_states(model, seen), head)
            labels_N = torch.tensor(reply_ids, device=logits_NV.device)
            losses.append(nn.functional.cross_entropy(logits_NV, labels_N, reduction="none"))
    nats, limit = torch.cat(losses).mean().item(), math.log(len(head.weight)) / 2
    if not nats <= limit:
        raise UserError(
            f"The teacher finds its own replies absurd: {nats:.1f} nats a token in the mean of {len(losses)} replies,"
            f" where blind guessing has {2 * limit:.1f}. What is loaded here ({type(causal_lm(model)).__name__}) is not"
            " what sampled them: look for missing weights in the messages above, or another model.revision, dtype or"
            " chat template; or set model.backend=transformers."
        )
    return nats


def check_same(
    student: nn.Module,
    examples: Sequence[Example],
    targets: StoredTeacher | None,
    temperature: float,
    guidance: float | None = None,
) -> float:
    """KL(teacher ‖ student) is 0 while the student's adapter is fresh and both see the teacher's contexts. Returned, in
    nats a token at `temperature`, the targets' own (T / sharpen). `targets` None: the teacher is run here.
    """
    head = output_head(student)
    if guidance is not None and head.softcap:  # what is taught has no hidden states; `check_head` has seen the head
        return 0.0
    allowed = 1e-3 if head.weight.dtype == torch.float32 else 3e-2
    kls = []
    for example in examples[:2]:
        seen = contexts([example], pad=0, guided=guidance is not None)  # one sequence: nothing is padded
        with resting(student), torch.no_grad():
            student_NH: Any = teacher_rows(states(student, seen), guidance, head)
        with as_teacher(student):
            teacher: Any = (
                teacher_rows(states(student, seen), guidance, head) if targets is None else targets([example.id])
            )
        weights = row_weights(torch.tensor([len(example.reply_ids)], device=student_NH.device))
        with torch.no_grad():
            kls.append(
                kd_loss(student_NH, placed(teacher, head.weight.device), head, weights, temperature=temperature).kl
            )
    kl = torch.cat(kls).mean().item()
    if not kl <= allowed:
        raise UserError(
            f"Student and teacher differ before the training has begun: {kl:.3g} nats a token in the same context,"
            " where a fresh adapter changes nothing. The stored targets are another model's, or were made by other"
            " software: run `ssb teach --force`, or set model.backend=transformers."
        )
    return kl


def check_trained(
    student: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Texts, base: nn.Module | None = None
) -> None:
    """Student and base differ after the training. `base` None: it is the student with its adapter off."""
    ids = render(tokenizer, student_messages(QUESTION, texts))[-TOKENS:]
    ids_1S = torch.tensor([ids], device=next(student.parameters()).device)
    with resting(student), torch.no_grad():
        learnt = hidden_states(student, ids_1S, torch.ones_like(ids_1S))
    before = student if base is None else base
    with as_teacher(before):
        known = hidden_states(before, ids_1S, torch.ones_like(ids_1S))
    if torch.equal(learnt, known):
        raise UserError(
            "The training has changed nothing: the student computes what its base computes. Look at"
            " train/history.jsonl (gradient norms of 0?) and at train.learning_rate; the earlier stages are kept."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return repr(tokenizer.name_or_path)
