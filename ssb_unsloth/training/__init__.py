"""The ways of training: what all share (common), one module each (ssb, sft, grpo), the Trainer that library users take
as well (trainer, with its arguments and rows), what happens beside the steps (callbacks, checkpoints, log_probs,
rollouts), and what is measured at the end (token_kl, drift).

Imports method and the rooms below it; report (token_kl alone), pipeline and commands may import it. A new way of
training is a module with `train(inputs: common.Inputs) -> common.Trained`, and its row in `recipe.methods.METHODS`.
Nothing is imported here: Unsloth has to come before transformers.
"""
