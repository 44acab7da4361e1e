"""The paper's method, from questions to the loss.

    curate    rollouts to verified pairs                   distributions, losses, kernels   the objective
    examples  pairs as token ids                           collator, prefetch               batches of examples
    teach, targets    the hinted teacher, and what is      modeling     a model in two halves: backbone and head
                      stored of it                         selfchecks   what is looked at before hours of work
    brought, brought_targets    rollouts and targets that were made elsewhere

Nothing is imported in this file: Unsloth has to come before transformers.

May import: errors, seeds, io, records, prompts, recipe, verifier, backends, run.
May be imported by: training, pipeline, commands, __init__.
"""
