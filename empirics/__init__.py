"""The fine-tuning pipeline whose measured retrieval error is set against the bounds of `theory`.

What programs call is exported here, and loaded when it is first asked for, so that no more need be installed than what is used::

    from empirics import SignatureRetriever
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empirics.adapters.peft_folders import read_peft_folder
    from empirics.comparisons.ablation import ablate
    from empirics.comparisons.comparison import compare
    from empirics.comparisons.run_comparison import compare_runs
    from empirics.config import CertifyConfig, RunConfig, load_certify_config, load_config
    from empirics.data.check import check_data
    from empirics.data.streams import load_stream
    from empirics.encoders.loading import load_backbone
    from empirics.figures.finished_run import open_run
    from empirics.figures.folders import open_ablation, open_comparison
    from empirics.retrieval.retriever import SignatureRetriever
    from empirics.routing.cascade import Cascade
    from empirics.routing.certified_cascade import load_cascade
    from empirics.routing.certify import certify
    from empirics.routing.index_files import open_index, save_index
    from empirics.routing.router import load_router
    from empirics.routing.served_cascade import load_served_cascade
    from empirics.routing.serving import Limits, load_served
    from empirics.routing.signature_index import SignatureIndex
    from empirics.runs.pipeline import run

__all__ = [
    "Cascade",
    "CertifyConfig",
    "Limits",
    "RunConfig",
    "SignatureIndex",
    "SignatureRetriever",
    "ablate",
    "certify",
    "check_data",
    "compare",
    "compare_runs",
    "load_backbone",
    "load_cascade",
    "load_certify_config",
    "load_config",
    "load_router",
    "load_served",
    "load_served_cascade",
    "load_stream",
    "open_ablation",
    "open_comparison",
    "open_index",
    "open_run",
    "read_peft_folder",
    "run",
    "save_index",
]

# Where each of them lives.
_HOMES = {
    "Cascade": "routing.cascade",
    "CertifyConfig": "config",
    "Limits": "routing.serving",
    "RunConfig": "config",
    "SignatureIndex": "routing.signature_index",
    "SignatureRetriever": "retrieval.retriever",
    "ablate": "comparisons.ablation",
    "certify": "routing.certify",
    "check_data": "data.check",
    "compare": "comparisons.comparison",
    "compare_runs": "comparisons.run_comparison",
    "load_backbone": "encoders.loading",
    "load_cascade": "routing.certified_cascade",
    "load_certify_config": "config",
    "load_config": "config",
    "load_router": "routing.router",
    "load_served": "routing.serving",
    "load_served_cascade": "routing.served_cascade",
    "load_stream": "data.streams",
    "open_ablation": "figures.folders",
    "open_comparison": "figures.folders",
    "open_index": "routing.index_files",
    "open_run": "figures.finished_run",
    "read_peft_folder": "adapters.peft_folders",
    "run": "runs.pipeline",
    "save_index": "routing.index_files",
}


def __getattr__(name: str) -> Any:
    """A public name, from the module that it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
