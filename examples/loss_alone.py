import torch

from ssb_unsloth import Head, kd_loss, row_weights

weight = torch.randn(32_000, 256)  # the frozen head's [V, H]; Head also takes a bias, a scale and a soft-cap
student = torch.randn(64, 256, requires_grad=True)  # states that predict the reply tokens, after the final norm
teacher = torch.randn(64, 256)  # the teacher's states for the same tokens; or its logits, or its likeliest tokens
lengths = torch.tensor([24, 40])  # two replies, end to end: each counts the same, as in the paper's Eq. 6
out = kd_loss(student, teacher, Head(weight), row_weights(lengths), temperature=2.0)
out.loss.backward()
