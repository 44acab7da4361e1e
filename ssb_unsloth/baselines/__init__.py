"""The controls: other ways to train the same LoRA on the same base and problems, through TRL's own trainers.

    sft   supervised fine-tuning on the refined answers that SSB learns from: is it the soft labels, or the answers?
    rft   the same on the model's own right rollouts: is it the hint, or any verified answer?
    ssd   the same on raw rollouts that nobody verified: is it the verification?
    grpo  reinforcement learning with the verifier as the reward

`sft.py` holds the first three, `grpo.py` the last, `log_probs.py` what TRL needs on a CPU.
"""
