"""Where a training's curves may go beside its history.jsonl: transformers' integrations, which `train.report_to` names.

Standard library only: a recipe is read before anything heavy is imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.util import find_spec

from ..errors import UserError

MODULES = {  # transformers' name of a tracker (5.17, integrations/integration_utils.py) -> modules; one of each will do
    "azure_ml": (("azureml",),),
    "clearml": (("clearml",),),
    "codecarbon": (("codecarbon",),),
    "comet_ml": (("comet_ml",),),
    "dagshub": (("dagshub",), ("mlflow",)),
    "dvclive": (("dvclive",),),
    "flyte": (("flytekit",),),
    "kubeflow": (),
    "mlflow": (("mlflow",),),
    "neptune": (("neptune",),),
    "swanlab": (("swanlab",),),
    "tensorboard": (("tensorboard", "tensorboardX"),),
    "trackio": (("trackio",),),
    "wandb": (("wandb",),),
}
EXTRA = {"tensorboard": "the extra [trackers]"}  # of this package


def misspelt(names: Sequence[str]) -> list[str]:
    """What is wrong with `train.report_to` wherever the recipe is read: names that transformers does not know."""
    found = []
    for name in names:
        if name not in MODULES:
            near = difflib.get_close_matches(name, MODULES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(MODULES)}; [] for none."
            found.append(f"train.report_to: no tracker {name!r}; {hint}")
    return found


def refuse_missing(names: Sequence[str]) -> None:
    """Where a training is to begin, now or after other stages.

    Raises:
        UserError: one of the trackers is not installed.
    """
    for name in names:
        absent = [each[0] for each in MODULES[name] if not any(map(find_spec, each))]
        if absent:
            raise UserError(
                f"train.report_to: {name} needs {' and '.join(absent)}, not installed here; install"
                f" {EXTRA.get(name, 'it')}, or leave {name} out."
            )
