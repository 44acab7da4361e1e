"""The paper's method, from a question to the loss: curate (rollouts to verified pairs), examples (pairs as token ids),
teach and targets (the hinted teacher, and what is stored of it), distributions, losses and kernels (the objective),
collator and prefetch (batches), modeling (a model in two halves), and selfchecks (what is looked at before long work).

Imports io, prompts, recipe, verifier, backends, data and run; training and the rooms above it may import it. Nothing is
imported here: Unsloth has to come before transformers.
"""
