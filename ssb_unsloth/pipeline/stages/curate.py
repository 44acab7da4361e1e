"""Questions to verified pairs, by sampling, or from where they were made."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ...backends import load_sampler
from ...run import keys
from ...run.manifests import digest
from ...run.rundir import Work
from ..stage import Scope, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Curate(Stage):
    name = "curate"

    def determined_by(self, scope: Scope) -> dict[str, Any]:
        recipe = scope.recipe
        return {
            "model": keys.of_model(recipe.model),
            "problems": keys.of_problems(recipe.problems),
            "sampler": keys.of_sampler(recipe.sampler),
            "curate": keys.of_curation(recipe.curate),
            "prompts": keys.of_prompts(recipe.prompts),
        }

    def origin(self, determined_by: dict[str, Any]) -> str:
        """How many pairs or questions are wanted decides when sampling ends, and nothing about a reply; nor does the
        text of one's own verifier about a rollout (what hangs on its verdicts the Curator tells apart).
        """
        others = {"curate": ("pairs", "questions"), "problems": ("limit", "verifier_source")}
        kept = {part: {k: v for k, v in determined_by[part].items() if k not in others[part]} for part in others}
        return digest({**determined_by, **kept})

    def make(self, scope: Scope, work: Work) -> None:
        from ...data.problems import OnDisk
        from ...method.curate import Curator, bring_along

        recipe = scope.recipe
        problems = OnDisk(recipe.problems, work.folder, recipe.curate.questions)
        verifier = recipe.judge(recipe.problems)
        if recipe.curate.pairs_file is not None:
            from ...backends.transformers import load_tokenizer
            from ...data.pairs import load_pairs

            tokenizer, control_text = load_tokenizer(recipe.model), recipe.prompts.control_text
            pairs = load_pairs(recipe.curate.pairs_file, tokenizer, control_text, verifier)
            work.summary = asdict(bring_along(pairs, problems, recipe.curate, work.folder))
            return
        config, begun = recipe.curate, ""
        reads: PreTrainedTokenizerBase | None = None  # rollouts that were made elsewhere
        if config.rollouts_file is not None:
            from ...backends.thinking import thinking
            from ...backends.transformers import load_tokenizer
            from ...data.shared import rollouts_file

            config = replace(config, rollouts_file=str(rollouts_file(config.rollouts_file)))
            reads = load_tokenizer(recipe.model)
            how = thinking(reads)
            begun = how.begun if how else ""
        curator = Curator(
            config,
            make_sampler=lambda: load_sampler(recipe.model, recipe.sampler, recipe.seed, adapters=False),
            max_model_len=recipe.sampler.max_model_len,
            seed=recipe.seed,
            folder=work.folder,
            texts=recipe.prompts.texts,
            control_text=recipe.prompts.control_text,
            verifier=verifier,
            begun=begun,
            tokenizer=reads,
        )
        statistics = curator.run(problems)
        work.tokens, work.summary = statistics.tokens, asdict(statistics)


STAGE = Curate()
