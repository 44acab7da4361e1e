"""Sampling by vLLM servers that run already: one, whose address is the model (`model.name: http://...`), or several
that serve the recipe's model (`sampler.engine: servers`).

    endpoint   one server's HTTP: a question, its answer, and what keeps an answer from coming
    answers    what vLLM answers, read and not believed unseen
    identity   whether a server's model, tokenizer and template are the recipe's, and whether two names are one server
    lora       adapters by vLLM's own interface
    server     a server as the two samplers below see it: the name it serves the model under, adapters that are there
    sampler    ServersSampler: prompts are rendered here; by_url ServerSampler: by the one server itself

Who of them is asked next, and many requests at a time: `dispatch` and `replies` beside this folder.
"""
