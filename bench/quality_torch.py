"""The needs that both judges have of torch and transformers."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quality_judge import Weights
from quality_models import Unavailable


def require(*modules: str) -> None:
    """Raise Unavailable where one cannot be imported."""
    for module in modules:
        try:
            __import__(module)
        except ImportError as error:
            raise Unavailable(f"{error}: pip install 'quantrim[bench]'") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers: no bars, no advice, no look-up in the network."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # the second is read when tqdm is imported
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def opened(kind: Any, folder: Path) -> Any:
    """Open a model by its own from_pretrained, in float32, for inference.

    ValueError where weights were not found: transformers warns then, and makes up random ones."""
    import torch

    with quiet():
        model, found = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"opens after a warning, with random numbers for {len(missing)} weights it did not find")
    return model.eval()


def set_weights(model: Any, weights: Weights) -> None:
    """Put weights into a model. ValueError unless they are all of its weights: figures would be of others."""
    import torch

    parameters = dict(model.named_parameters())
    if parameters.keys() != weights.keys():
        odd = sorted(parameters.keys() ^ weights.keys())
        raise ValueError(f"weights must be those of the model; only one of both has {', '.join(odd[:5])}")
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(torch.from_numpy(weight))
