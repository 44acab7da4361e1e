"""KL(base ‖ student) on unrelated text: zero before training, the plain formula after it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ssb_unsloth.errors import UserError
from ssb_unsloth.training.drift import drift, unrelated


@pytest.fixture
def student(make_model):
    torch.manual_seed(0)
    return get_peft_model(make_model("qwen2"), LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj"]))


TEXTS = [([3, 4, 5], [6, 7]), ([8], [9, 10, 11, 12])]


def test_an_adapter_that_does_nothing_has_not_moved_the_model(student):
    assert drift(student, TEXTS) == pytest.approx(0, abs=1e-7)


def test_it_is_the_mean_kl_of_base_and_student_over_the_predicted_tokens(student):
    with torch.no_grad():
        for name, weight in student.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    student.train()
    kls = []
    for prompt, rest in TEXTS:
        ids = torch.tensor([prompt + rest])
        with torch.no_grad():
            q = student.eval()(input_ids=ids).logits[0].double().log_softmax(-1)
            with student.disable_adapter():
                p = student(input_ids=ids).logits[0].double().log_softmax(-1)
        rows = slice(len(prompt) - 1, -1)
        kls += (p.exp() * (p - q))[rows].sum(-1).tolist()
    student.train()
    assert drift(student, TEXTS) == pytest.approx(sum(kls) / len(kls), rel=1e-4)
    assert sum(kls) > 0.01
    assert student.training


def test_texts_come_from_a_file_or_from_the_pocket(tokenizer, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "Mia has 9 shells."}\n{"text": "a"}\n')
    (found,) = unrelated(str(path), tokenizer)
    assert tokenizer.decode(found[0] + found[1]) == "Mia has 9 shells."
    drills = unrelated("pocket", tokenizer)
    assert len(drills) == 200
    assert all("boxed" in tokenizer.decode(rest) for _, rest in drills)
    assert drills == unrelated("pocket", tokenizer)


@pytest.mark.parametrize(
    ("text", "said"), [('{"question": "?"}', 'line 1: expected {"text"'), ('{"text": ""}', "no text of at least two")]
)
def test_a_file_without_texts_is_named(tokenizer, tmp_path, text, said):
    path = tmp_path / "texts.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=said):
        unrelated(str(path), tokenizer)
