"""The ways of training, and what is measured of a student once it is trained.

    common          what all ways are given and return,    trainer, arguments, rows    SSBTrainer, as library users
                    and how a training is run and kept                                 take it too
    ssb, sft, grpo  one way each (sft: three)              callbacks, checkpoints      what happens beside the steps
    token_kl, drift what is measured at the end            log_probs, rollouts         in place of parts of TRL
    group, shares   several processes: how they find each other, and what each takes of a step
    sharded         each of which holds a part of every weight (FSDP2)

A new way is a module with `train(inputs: common.Inputs) -> common.Trained`, and its row in `recipe.methods.METHODS`.

Nothing is imported in this file: Unsloth has to come before transformers.

May import: errors, published, seeds, io, records, prompts, recipe, verifier, pocket, machine, backends, data, run,
    method.
May be imported by: report, pipeline, __init__.
"""
