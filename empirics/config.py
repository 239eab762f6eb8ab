"""What a run is: validated settings, read from a preset, a YAML or TOML file, and overrides, in that order."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from theory.errors import InputError
from theory.files import read_whole


class Group(BaseModel):
    """A group of settings: frozen; an unknown key, an infinite number and a switch in the place of a number are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts True as 1, so that `epochs: yes` would train for one epoch.
        if isinstance(value, bool) and info.field_name is not None and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("true and false are no value here")
        return value


class StreamConfig(Group):
    """Which tasks, and how many documents of each class go to each part (caps; a small class is dealt in proportion)."""

    name: Literal[
        "text-5t", "news-4t", "digits", "mnist", "cifar100-10t", "cifar100-20t", "imagenet-r-10t", "imagenet-a-10t", "vtab-5t"
    ] = Field("text-5t", description="stream of tasks; not used if path is given")
    path: Path | None = Field(None, description="own data: a CSV, TSV, JSONL or Parquet file, or a folder of images")
    columns: dict[str, str] = Field({}, description="own data: names of its columns, such as {text: body}")
    ignore: tuple[str, ...] = Field((), description="own data: columns that are not looked at")
    split: Literal["given", "given-at-random", "held-out", "random"] = Field(
        "given",
        description="where the data give parts: keep them; keep them, known to be drawn at random; deal the query part from the given "
        "test part; or deal everything anew. With the first, L8 is no guarantee",
    )
    unusable: Literal["refuse", "drop"] = Field(
        "refuse", description="empty, repeated and undecodable documents and classes too small for their parts: an error, or left out"
    )
    outside: bool = Field(False, description="own images: let paths and links lead out of the folder of the data")
    tasks: tuple[str, ...] | None = Field(None, min_length=2, description="these tasks, in this order; all in the stream's order if null")
    class_order: int | None = Field(None, ge=0, description="seed by which a dataset's classes are split into tasks; the run's if null")
    hub: Path = Field(Path("data/hub"), description="folder with copies of repositories of the Hugging Face hub")
    download: bool = Field(False, description="fetch what is missing there")
    train_per_class: int = Field(40, ge=4, description="documents a class that train adapters and fit signatures")
    query_per_class: int = Field(64, ge=4, description="held-out documents a class that give the query law and L8")
    test_per_class: int = Field(40, ge=1, description="held-out documents a class that measure error, and nothing else")
    reservoir_per_class: int = Field(10, ge=1, description="unlabelled documents a class that fit projections and background")
    classes_per_task: int | None = Field(None, ge=2, description="keep only the first so many classes of a task")


class BackboneConfig(Group):
    """The frozen encoder."""

    path: Path | None = Field(None, description="folder that AutoModel can load; the packaged encoder if null")
    packaged: Literal["minilm", "efficientnet-lite0"] = Field(
        "minilm", description="encoder from a package: all-MiniLM-L6-v2 or a small CNN"
    )
    layers: str | None = Field(None, description="dotted path of the list of blocks; found if null")
    pooling: Literal["mean", "cls", "pooler"] | None = Field(None, description="pooled output; mean for text and cls for images if null")
    max_length: int = Field(48, ge=4, le=512, description="tokens a document is cut to")
    adapted_layers: int = Field(3, ge=1, description="last so many layers carry adapters")
    normalize: bool = Field(True, description="scale pooled embeddings to unit length")
    batch_size: int = Field(64, ge=1, description="documents embedded at once")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 autocast on a GPU, float32 on the CPU")
    cache_gib: float = Field(
        4.0,
        ge=0,
        description="prefix states kept in memory, on a GPU if they take up to half of what is free there; above, they are computed anew",
    )
    compile: bool = Field(False, description="compile the adapted layers: minutes at first, faster afterwards; for long runs on a GPU")


class AdapterConfig(Group):
    """The low-rank update of a task."""

    rank: int = Field(8, ge=1, description="new rank-one units a projection")
    targets: tuple[str, ...] = Field(("query", "value"), min_length=1, description="adapted projections of each layer")
    alpha: float = Field(1.0, gt=0, le=1, description="scale of the new units")
    compose: bool = Field(True, description="compose the earlier tasks' units with learned scalars")
    l1: float = Field(0.3, ge=0, description="elastic net on the scalars: soft threshold a step, times the learning rate")
    l2: float = Field(0.01, ge=0, description="elastic net on the scalars: shrinkage a step, times the learning rate")
    orthogonality: float = Field(1.0, ge=0, description="weight of the penalty on overlap of new units with the pool's span")
    orthogonal: Literal["penalty", "projection"] = Field("penalty", description="a penalty, or new units projected off the pool each step")
    orthogonal_sides: Literal["a", "both"] = Field("a", description="keep inputs (a) of new units off the pool's, or outputs (b) too")

    def alone(self) -> Self:
        """The same adapter trained by itself: no composition, no orthogonality."""
        return self.model_copy(update={"compose": False, "orthogonality": 0.0, "orthogonal": "penalty"})


class TrainingConfig(Group):
    """How an adapter is trained."""

    epochs: int = Field(3, ge=1, description="passes over the training documents of a task")
    batch_size: int = Field(32, ge=2, description="documents a step")
    accumulate: int = Field(1, ge=1, description="pieces a step is computed in: less memory, the same step up to rounding")
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate, after the warmup")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of the optimiser")
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps")
    temperature: float = Field(0.05, gt=0, description="of the cosine head")


class SignatureConfig(Group):
    """What summarises a task."""

    clusters: Literal["class", "task", "mixture", "dp-mixture"] = Field(
        "class", description="one Gaussian a class or a task, or a mixture a task: fixed K, or a Dirichlet process"
    )
    covariance: Literal["full", "ledoit-wolf", "oas", "diagonal", "low-rank"] = Field(
        "ledoit-wolf", description="estimator of a component's covariance"
    )
    dimension: int = Field(32, ge=1, description="principal components of the reservoir that signatures live in")
    pool: float = Field(0.0, ge=0, le=1, description="share of the task's covariance within components in each component's own")
    rank: int = Field(8, ge=1, description="factors of a low-rank covariance, at most dimension - 1")
    components: int = Field(6, ge=1, description="components a task of a mixture; a Dirichlet process starts from so many")
    min_samples: int = Field(8, ge=3, description="a component of a mixture that holds fewer samples is dropped")

    @model_validator(mode="after")
    def _pooled_is_dense(self) -> Self:
        if self.pool > 0 and self.covariance in ("diagonal", "low-rank"):
            raise ValueError(f"pool needs a dense covariance, not {self.covariance}: set pool to 0 or covariance to ledoit-wolf")
        return self


class RunSignatureConfig(SignatureConfig):
    """What summarises a task of a run, which trains the task's adapter too."""

    held_out: float = Field(0.0, ge=0, le=0.9, description="share of each class's training documents that the adapter is not trained on")
    source: Literal["held-out", "trained", "both"] = Field(
        "held-out", description="which of the two then give the signature; of no effect if nothing is held out"
    )


class HeadConfig(Group):
    """What predicts a class once the task is retrieved."""

    kind: Literal["lda", "ridge"] = Field("lda", description="linear discriminant, or ridge regression on random projections")
    random_features: int = Field(2000, ge=1, description="width of the random projection")


class RetrievalConfig(Group):
    """How a task is retrieved from scores."""

    rule: Literal["max", "mixture"] = Field("max", description="a task's score: its least component's (as published), or its mixture's")
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field((4, 16, 64), description="sizes of task-pure batches of the leak control")


class QueryLawConfig(Group):
    """What bounds assume of a query; fitted to its own held-out part."""

    samples_per_component: int = Field(24, ge=2, description="one Gaussian inside a cluster for so many samples")
    covariance: Literal["ledoit-wolf", "diagonal", "low-rank", "auto"] = Field(
        "ledoit-wolf",
        description="covariance of a component: full and shrunk, diagonal, or low rank plus diagonal; auto: cross-validated on this part",
    )
    rank: int = Field(8, ge=1, description="factors of a low-rank covariance")


class BoundsConfig(Group):
    """How bounds are computed and judged."""

    arm: Literal["paper", "ratio", "frozen", "both"] = Field("both", description="retrieval whose bounds head the report")
    confidence: float = Field(0.95, gt=0, lt=1, description="of intervals, simulations and certificates")
    simulations: int = Field(100_000, ge=1000, description="draws from a query law")
    batch: int = Field(1, ge=1, description="queries of one task whose scores L4 adds; L4 then bounds the error of batches")
    intersections: int = Field(0, ge=0, description="exact overlaps for L5b per query component; 0 leaves L5b at L5")
    student: float | None = Field(None, gt=0, description="degrees of freedom of the common scale for L11; none leaves it out")
    kl: float | None = Field(None, ge=0, description="KL divergence in nats for L12; none leaves it out")


class CompareConfig(Group):
    """What `proteus-bounds compare` repeats, and the settings of rivals."""

    seeds: int = Field(5, ge=1, description="seeds, from the run's on; each deals documents and draws everything anew")
    orders: int = Field(1, ge=1, description="task orders for each seed: the stream's own, then random ones")
    methods: tuple[str, ...] | None = Field(None, min_length=1, description="names of methods; all if null")
    reference: str = Field("proteus", description="method that the others are tested against")
    random_features: int = Field(2000, ge=1, description="width of the ridge rival's random projection")
    keys: int = Field(5, ge=1, description="keys a task of the key-matching rival")
    replayed: int = Field(64, ge=2, description="features drawn a class by the replay rival")
    background: Path | None = Field(None, description="generic corpus: a file of texts of no task, one a line; folk tales if null")
    background_documents: int = Field(500, ge=3, description="texts of the generic corpus that fit its background")


class RunConfig(Group):
    """All settings of a run."""

    seed: int = Field(0, ge=0, description="the one source of every random draw")
    threads: int | None = Field(None, ge=1, description="computing threads; all cores if null")
    stream: StreamConfig = StreamConfig()
    backbone: BackboneConfig = BackboneConfig()
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig = TrainingConfig()
    signature: RunSignatureConfig = RunSignatureConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    query_law: QueryLawConfig = QueryLawConfig()
    head: HeadConfig = HeadConfig()
    bounds: BoundsConfig = BoundsConfig()
    compare: CompareConfig = CompareConfig()


class SampleSignatureConfig(SignatureConfig):
    """What summarises a task of which there are some samples only."""

    dimension: int | None = Field(
        None, ge=1, description="principal components of the pooled signature samples; half their number, at most 32, if null"
    )


class CertifyConfig(Group):
    """All settings of `proteus-bounds certify`."""

    seed: int = Field(0, ge=0, description="the one source of every random draw")
    rule: Literal["ratio", "paper", "frozen", "all"] = Field(
        "ratio", description="fixed before the samples are seen; or all of them, which share the confidence"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="of all certificates together, and of each interval and simulation")
    simulations: int = Field(100_000, ge=1000, description="draws from a query law")
    alpha: float = Field(0.05, gt=0, lt=1, description="rate at which a conformal retrieval set may miss the true task")
    backbone: BackboneConfig = BackboneConfig()
    signature: SampleSignatureConfig = SampleSignatureConfig()
    query_law: QueryLawConfig = QueryLawConfig()


def check_settings(config: object, kind: type[Group]) -> None:
    """Refuse what is no group of settings of this kind, such as a dict, or the settings of a whole run in the place of one group's.

    Raises
    ------
    InputError
    """
    if not isinstance(config, kind):
        raise InputError("config", f"is a {type(config).__name__}; give a {kind.__name__}")


def presets() -> list[str]:
    """Names of the shipped presets."""
    files = resources.files("empirics").joinpath("configs").iterdir()
    return sorted(p.name.removesuffix(".yaml") for p in files if p.name.endswith(".yaml"))


def load_config(path: Path | str | None = None, preset: str = "default", overrides: Sequence[str] = ()) -> RunConfig:
    """Read settings from a preset, then a YAML or TOML file, then overrides such as ``training.epochs=2``.

    Raises
    ------
    InputError
        For an unknown preset or key (dotted, with the closest known one), a value out of range, or a malformed file.
    """
    if preset not in presets():
        raise InputError("--preset", f"{preset!r} is unknown; choose from {', '.join(presets())}")
    data = yaml.safe_load(resources.files("empirics").joinpath("configs", f"{preset}.yaml").read_text("utf-8")) or {}
    if path is not None:
        data = _merged(data, read_table(Path(path)))
        # On its own first, so that a fault of an override is not laid on the file.
        _validated(RunConfig, data, str(path))
    return _validated(RunConfig, _overridden(data, overrides), "--set" if overrides else str(path or preset))


def changed_config(config: RunConfig, changes: dict[str, Any], source: str) -> RunConfig:
    """The same settings but for some groups of changes such as ``{"training": {"epochs": 2}}``.

    Raises
    ------
    InputError
        As `load_config`, laid on `source`.
    """
    return _validated(RunConfig, _merged(config.model_dump(), changes), source)


def load_certify_config(options: dict[str, Any], overrides: Sequence[str] = ()) -> CertifyConfig:
    """Settings of `proteus-bounds certify` from its options, then overrides such as ``signature.clusters=task``.

    Raises
    ------
    InputError
        As `load_config`.
    """
    known = _validated(CertifyConfig, options, "options").model_dump()
    return _validated(CertifyConfig, _overridden(known, overrides), "--set")


def _overridden(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Settings with overrides such as ``training.epochs=2``, whose values are YAML, merged in."""
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise InputError("--set", f"{item!r} has no '='; write group.key=value")
        try:
            value = _yaml(text)
        except _UNREADABLE:
            raise InputError("--set", f"the value of {key} is not YAML: {_short(text)}") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        data = _merged(data, value)
    return data


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases (a few lines stand for more than any memory holds) and without repeated keys (the last alone would count)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1} holds an alias (*); write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1} holds the key {key.value} again; write its settings in one place")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=_PlainLoader)


# YAML's dates and based integers raise a plain ValueError (2020-13-45, 0x_), deep nesting a RecursionError, and a tag whose value it does
# not fit (!!bool x, !!int '', !!timestamp x) whatever its constructor stumbles over.
_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError, TypeError, ArithmeticError)


def _short(value: Any) -> str:
    """A value, for a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits, deep nesting
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


_Settings = TypeVar("_Settings", bound=Group)


def _validated(model: type[_Settings], data: dict[str, Any], source: str) -> _Settings:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(p) for p in item["loc"])
            if item["type"] == "extra_forbidden":
                problems.append(unknown_key(key, model))
            else:
                problems.append(f"{key}: {item['msg']}, got {_short(item['input'])}")
        raise InputError(source, "; ".join(problems)) from None


def unknown_key(key: str, model: type[BaseModel]) -> str:
    """What to say of a dotted key that a model does not have, with the closest one that it has."""
    close = difflib.get_close_matches(key, _keys(model), 1)
    return f"unknown key {key}" + (f" (did you mean {close[0]}?)" if close else "")


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all settings of a model and of the groups in it, and of these groups."""
    out = []
    for name, info in model.model_fields.items():
        out.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            out += _keys(info.annotation, f"{prefix}{name}.")
    return out


def read_table(path: Path) -> dict[str, Any]:
    """A YAML or TOML file that holds a table.

    Raises
    ------
    InputError
        If it cannot be read, is malformed, or holds something else.
    """
    raw = read_whole(path)
    try:
        text = raw.decode("utf-8")
        data = tomllib.loads(text) if path.suffix.lower() == ".toml" else _yaml(text)
    except _UNREADABLE as error:
        raise InputError(str(path), f"is not valid YAML or TOML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(str(path), "holds no table of settings")
    return data


def _merged(base: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Nested tables, the new one's values before those of the base."""
    out = dict(base)
    for key, value in new.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out
