"""The command `proteus-bounds`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
import typer
from rich.console import Console

from empirics.processes import is_main, stop
from empirics.sweep.command import sweep_app
from theory.bound import Bound
from theory.errors import InputError
from theory.files import read_queries, read_signatures
from theory.ladder import Ball, ladder
from theory.mixture import Rule, RuleKind
from theory.robust import Student
from theory.slack import slack

if TYPE_CHECKING:
    from empirics.certified_cascade import AdaptedRule
    from theory.planner import Plan
    from theory.pruning import Kind

_Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with what was cut short; refuse a folder that holds no such thing of these settings."),
]

app = typer.Typer(
    name="proteus-bounds",
    help="Bounds on task-retrieval error in continual fine-tuning, set against measured error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def verify(
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME-seedN by default.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or TOML file of settings.")] = None,
    preset: Annotated[str, typer.Option(help="Shipped settings to start from: default, news-4t or small.")] = "default",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one setting: group.key=value. May be repeated.")] = None,
    fresh: Annotated[bool, typer.Option(help="If --out is not given, number the folder rather than refuse one that exists.")] = False,
    resume: _Resume = False,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Run the pipeline and set measured retrieval error against every bound."""
    from empirics.config import load_config
    from empirics.pipeline import run

    settings = load_config(config, preset, set_ or [])
    folder = out or Path("runs") / f"{preset}-seed{settings.seed}"
    if fresh and resume:
        raise InputError("--resume", "goes on with a folder, and --fresh makes another; leave one of them out")
    if fresh and out is None:
        number = 1
        while folder.exists():
            number += 1
            folder = Path("runs") / f"{preset}-seed{settings.seed}-{number}"
    pages: list[Path | str] = []
    report_ = run(settings, folder, quiet=quiet, resume=resume, then=lambda folder: pages.append(_page(folder)))
    _show(report_)
    print(f"\nThe run lies in {folder}; the whole report is {folder / 'report.md'}")
    for page in pages:
        print(f"The page is {page}" if isinstance(page, Path) else page, file=sys.stdout if isinstance(page, Path) else sys.stderr)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    html: Annotated[bool, typer.Option("--html", help="Write the page report.html into the folder, too.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Recompute the report of a run from its files alone, and print it; of a run that did not finish, tell how far it came."""
    from empirics.claim import locked
    from empirics.evaluation import evaluate
    from empirics.page.html import need_report_extra
    from empirics.record import PhaseClock
    from empirics.run_folder import check_files, finished, is_older, progress, read_about, read_run

    if html:
        need_report_extra()
    about = read_about(run)
    if not finished(about):
        from empirics.page.partial import partial_page
        from empirics.page.terminal import print_page
        from empirics.page.write import write_partial_page

        found = progress(run)
        # First, for whoever reads the printed page may stop reading.
        page = write_partial_page(run, found) if html else None
        print_page(partial_page(found), Console(width=None if sys.stdout.isatty() else 150, highlight=False))
        _tell(page)
        raise InputError(str(run), "holds a run that did not finish; what is above says how to do it again")
    older = is_older(about)
    if older:
        report_ = read_run(run).report
    else:
        with locked(run):
            check_files(run, about)
            report_ = evaluate(run, PhaseClock(quiet))
    page = None
    if html:
        from empirics.page.write import write_run_page

        page = write_run_page(run)
    _show(report_)
    if older:
        print(f"\nThis run was written by an older version (schema {about['schema']}): its report is shown as it stands, not made again.")
    _tell(page)


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Annotated[bool, typer.Option("--data", help="Deal the stream anew, and embed some documents anew in other batches.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="The same of all documents, and fit signatures and heads anew.")] = False,
    repeat: Annotated[bool, typer.Option("--repeat", help="Make the whole run again and compare every file to the bit.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recompute every number of a run's report from its raw files, by other code than the run's; status 1 if anything is amiss."""
    from empirics.audit import audit as audited
    from empirics.audit.show import print_audit
    from empirics.record import PhaseClock

    clock = PhaseClock(quiet=not sys.stderr.isatty())
    found = audited(run, with_data=data, thorough=thorough, repeat=repeat, advance=lambda name: clock.say(f"audit: {name}"))
    if json_:
        print(json.dumps(found.to_dict(), allow_nan=False))
    else:
        print_audit(found, Console(width=None if sys.stdout.isatty() else 150, highlight=False))
    if not found.passed:
        raise typer.Exit(1)


def _tell(page: Path | None) -> None:
    if page is not None:
        print(f"\nThe page is {page}")


def _page(folder: Path) -> Path | str:
    """Write the page of a run that has just been reported, or tell what kept it from being written: the run stands without."""
    from empirics.page.html import need_report_extra

    try:
        need_report_extra()
        from empirics.page.write import write_run_page

        return write_run_page(folder)
    except OSError:
        # A full disk; the run goes on from here when there is room.
        raise
    except Exception as error:
        return f"No page was written: {' '.join(str(error).split())}"


@app.command("compare-runs")
def compare_runs(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two or more runs; the others are set against the first.")],
    html: Annotated[Path | None, typer.Option(help="Write a page to this file, too.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Set runs side by side: settings, measured errors with their differences, bounds that stand, seconds and bytes."""
    from empirics.page.html import need_report_extra
    from empirics.page.side_by_side import side_by_side
    from empirics.page.terminal import print_page
    from empirics.run_comparison import compare_runs as compared

    if html is not None:
        need_report_extra()
    found = compared(runs)
    if html is not None:
        from empirics.page.write import write_comparison_page

        write_comparison_page(found, html)
    if json_:
        print(json.dumps(found, allow_nan=False))
        return
    print_page(side_by_side(found), Console(width=None if sys.stdout.isatty() else 180, highlight=False))
    _tell(html)


@app.command()
def ablate(
    out: Annotated[Path | None, typer.Option(help="Folder of the ablation; runs/ablation-NAME-seedN by default.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or TOML file of settings of the base.")] = None,
    preset: Annotated[str, typer.Option(help="Shipped settings of the base to start from.")] = "default",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one setting of the base: group.key=value.")] = None,
    variants: Annotated[Path | None, typer.Option(help="YAML or TOML file {group: {name: {settings}}}; shipped by default.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run and show this group of variants only. May be repeated.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print ablation.json.")] = False,
    resume: _Resume = False,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Set variants of a run against it: composition, signatures, dimension. A folder that holds some of them is continued."""
    from empirics.ablation import ablate as ablated
    from empirics.ablation import chosen_variants, read_variants
    from empirics.ablation_table import print_ablation
    from empirics.config import load_config

    base = load_config(config, preset, set_ or [])
    folder = out or Path("runs") / f"ablation-{preset}-seed{base.seed}"
    summary = ablated(base, chosen_variants(read_variants(base, variants), only or []), folder, quiet=quiet, resume=resume)
    if json_:
        print(json.dumps(summary, allow_nan=False))
        return
    print_ablation(summary, Console(width=None if sys.stdout.isatty() else 180, highlight=False))
    print(f"\nThe runs lie in {folder / 'runs'}; the table is {folder / 'ablation.md'}")


def _show(found: object) -> None:
    from empirics.report import print_report

    print_report(found, Console(width=None if sys.stdout.isatty() else 150))


@app.command()
def compare(
    stream: Annotated[str | None, typer.Option(help="Shipped stream, such as text-5t or news-4t; the settings' own by default.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or TOML file of settings, instead of --stream.")] = None,
    preset: Annotated[str, typer.Option(help="Shipped settings to start from.")] = "compare",
    seeds: Annotated[int | None, typer.Option(help="Seeds: each deals the documents and draws everything anew.")] = None,
    orders: Annotated[int | None, typer.Option(help="Task orders for each seed: the stream's own, then random ones.")] = None,
    methods: Annotated[str | None, typer.Option(help="Names of methods, with commas between them; all by default.")] = None,
    reference: Annotated[str | None, typer.Option(help="Method that the others are tested against.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one setting: group.key=value. May be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder, continued if it holds the same comparison; runs/compare-STREAM-seedS.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print comparison.json.")] = False,
    resume: _Resume = False,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Compare PROTEUS with its rivals and controls on the same documents, over seeds and task orders."""
    from empirics.comparison import compare as compared
    from empirics.config import load_config
    from empirics.standings import print_comparison

    if stream is not None and config is not None:
        raise InputError("--stream", "cannot be given beside --config, which names the stream; leave one of them out")
    options = {
        "stream.name": stream,
        "compare.seeds": seeds,
        "compare.orders": orders,
        "compare.methods": None if methods is None else [name.strip() for name in methods.split(",")],
        "compare.reference": reference,
    }
    # JSON's strings are YAML's: a name may hold any character.
    given = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    settings = load_config(config, preset, [*given, *(set_ or [])])
    name = settings.stream.name if settings.stream.path is None else settings.stream.path.stem
    folder = out or Path("runs") / f"compare-{name}-seed{settings.seed}"
    summary = compared(settings, folder, quiet=quiet, resume=resume)
    if json_:
        print(json.dumps(summary, allow_nan=False))
        return
    print_comparison(summary, Console(width=None if sys.stdout.isatty() else 150, highlight=False))
    print(f"\nThe comparison lies in {folder}; the table is {folder / 'comparison.md'}")


@app.command()
def bound(
    signatures: Annotated[Path, typer.Argument(help="A .safetensors or .npz file with means, covariances, task.")],
    queries: Annotated[Path | None, typer.Option(help="A file with measured moments of queries (the query law).")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    confidence: Annotated[float, typer.Option(help="Of the simulated rung.")] = 0.95,
    simulations: Annotated[int, typer.Option(help="Draws for the simulated rung.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of the simulated rung.")] = 0,
    rule: Annotated[str, typer.Option(help="max (the published rule), mixture or angular.")] = "max",
    batch: Annotated[int, typer.Option(help="Queries of one task whose scores L4 adds.")] = 1,
    intersections: Annotated[int, typer.Option(help="Exact overlaps for L5b per query component.")] = 4,
    student: Annotated[float | None, typer.Option(help="Degrees of freedom of a common random scale, for L11.")] = None,
    kl: Annotated[float | None, typer.Option(help="Divergence in nats of the true law from the assumed one, for L12.")] = None,
    why: Annotated[bool, typer.Option(help="Print where the slack of every rung goes, overall.")] = False,
    screen: Annotated[
        float | None,
        typer.Option(help="For thousands of low-rank components: L5 alone, of which pairs that are not exact may make up such a share."),
    ] = None,
    refine: Annotated[int, typer.Option(help="Most pairs that --screen takes beyond the closed form.")] = 1000,
    memory: Annotated[int, typer.Option(help="MiB that --screen may work in.")] = 1024,
) -> None:
    """Print the ladder of bounds for signatures from a file, without any pipeline."""
    known = read_signatures(signatures)
    if screen is not None:
        from empirics.screening import print_screened, screened_json
        from empirics.screening import screen as screened

        if queries is not None:
            raise InputError("--screen", "speaks of well-specified queries; leave out --queries")
        union = screened(Rule(known, kind=cast(RuleKind, rule)), screen, refine, memory * 2**20)
        if json_:
            print(screened_json(union, known.names))
        else:
            print_screened(union, known.names, Console(width=None if sys.stdout.isatty() else 150))
        return
    law = read_queries(queries, known) if queries else None
    found = ladder(
        Rule(known, kind=cast(RuleKind, rule)),
        law,
        rng=np.random.default_rng(seed),
        simulations=simulations,
        confidence=confidence,
        batch=batch,
        intersections=intersections,
        scale=Student(student) if student is not None else None,
        ball=Ball("kl", kl) if kl is not None else None,
    )
    if json_:
        print(
            json.dumps(
                {
                    "law": found.law,
                    "clusters": [{"task": k, "index": t, "rungs": _json(rungs)} for (k, t), rungs in found.clusters.items()],
                    "tasks": [{"task": k, "name": known.names[k], "rungs": _json(rungs)} for k, rungs in found.tasks.items()],
                    "overall": {"rungs": _json(found.overall)},
                },
                allow_nan=False,
            )
        )
        return
    from empirics.report import print_ladder, print_slack

    console = Console(width=None if sys.stdout.isatty() else 150)
    print_ladder(found, console)
    if why:
        print_slack(slack(found), console)


@app.command()
def certify(
    adapters: Annotated[list[str], typer.Argument(help="PEFT LoRA folders, or TASK=FOLDER; the task bears the folder's name by default.")],
    samples: Annotated[Path, typer.Option(help="CSV, TSV, JSONL or Parquet file with columns task, text or image, and optionally label.")],
    backbone: Annotated[Path | None, typer.Option(help="Folder of the encoder; the packaged all-MiniLM-L6-v2 by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for certificate.json, samples.parquet and signatures/.")] = None,
    rule: Annotated[
        str, typer.Option(help="ratio, paper or frozen, fixed before the samples are seen; or all, which share the confidence.")
    ] = "ratio",
    dimension: Annotated[int | None, typer.Option(help="Principal components; chosen by the number of samples by default.")] = None,
    confidence: Annotated[float, typer.Option(help="Of all certificates together, and of each interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the split of the samples and of every other draw.")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting, such as signature.clusters=dp-mixture.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print certificate.json.")] = False,
    resume: _Resume = False,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Certify how often inputs are sent to the wrong one of several adapters trained elsewhere."""
    from empirics.certificate import print_certificate
    from empirics.certify import certify as certified
    from empirics.certify import named_folders
    from empirics.config import load_certify_config
    from empirics.samples import read_samples

    options = {"rule": rule, "seed": seed, "confidence": confidence, "backbone": {"path": backbone}, "signature": {"dimension": dimension}}
    settings = load_certify_config(options, set_ or [])
    found = certified(named_folders(adapters), read_samples(samples), settings, source=str(samples), out=out, quiet=quiet, resume=resume)
    if json_:
        print(json.dumps(found.model_dump(mode="json"), allow_nan=False))
        return
    print_certificate(found, Console(width=None if sys.stdout.isatty() else 150, highlight=False))
    if out is not None:
        print(f"\nThe certificate and the signatures lie in {out}")


@app.command()
def cascade(
    certified: Annotated[Path, typer.Argument(help="Folder that certify --rule all --out wrote.")],
    rule: Annotated[str, typer.Option(help="Of the full search over all adapters: ratio or paper.")] = "ratio",
    kind: Annotated[str, typer.Option(help="How candidates are chosen: threshold, best, adaptive or absolute.")] = "threshold",
    alpha: Annotated[float, typer.Option(help="Share of inputs that may be lost against the full search.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Of the certificate.")] = 0.95,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Certify what is lost if a cheap screen leaves only some adapters to be run, and tell how many that are."""
    from empirics.certified_cascade import fit_pruning

    _, judged = fit_pruning(certified, cast("AdaptedRule", rule), cast("Kind", kind), alpha, confidence)
    print(json.dumps(judged.to_dict(), allow_nan=False) if json_ else judged)


data_app = typer.Typer(name="data", help="Look at the data of a run.", no_args_is_help=True)
app.add_typer(data_app)


@data_app.command("check")
def data_check(
    file: Annotated[
        Path | None, typer.Argument(help="Own data: a table or a folder of images; the stream of the settings if left out.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or TOML file of settings.")] = None,
    preset: Annotated[str, typer.Option(help="Shipped settings to start from.")] = "default",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one setting: group.key=value. May be repeated.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a run would see of its data: tasks in order, classes, documents of each part, sizes, warnings."""
    from empirics.config import load_config
    from empirics.data_check import check_data, print_summary

    # JSON's strings are YAML's: a path may hold any character.
    own = [f"stream.path={json.dumps(str(file))}"] if file is not None else []
    summary = check_data(load_config(config, preset, [*own, *(set_ or [])]))
    if json_:
        print(json.dumps(summary.to_dict(), allow_nan=False))
        return
    print_summary(summary, Console(width=None if sys.stdout.isatty() else 150, highlight=False))


app.add_typer(sweep_app)


plan_app = typer.Typer(name="plan", help="How many samples, how much separation, how many tasks, how large a batch.", no_args_is_help=True)
app.add_typer(plan_app)

_Tasks = Annotated[int, typer.Option(help="Number of tasks.")]
_Components = Annotated[int, typer.Option(help="Gaussian components of each task.")]
_Dimension = Annotated[int, typer.Option(help="Embedding dimension.")]
_Delta = Annotated[float, typer.Option("--separation", help="delta of every wrong component: its squared Mahalanobis distance over d.")]
_Error = Annotated[float, typer.Option("--error", help="Target error, inside (0, 1).")]
_OneRung = Annotated[str | None, typer.Option(help="L1, L3 or L5; all of them by default.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@plan_app.command("separation")
def plan_separation(
    tasks: _Tasks, dimension: _Dimension, error: _Error, components: _Components = 1, rung: _OneRung = None, json_: _Json = False
) -> None:
    """The least separation at which the bound on the error of well-specified signatures meets the target."""
    from theory.planner import PLANNED_RUNGS, separation_for

    with _named():
        _show_plans([separation_for(tasks, components, dimension, error, name) for name in ([rung] if rung else PLANNED_RUNGS)], json_)


@plan_app.command("tasks")
def plan_tasks(
    separation: _Delta, dimension: _Dimension, error: _Error, components: _Components = 1, rung: _OneRung = None, json_: _Json = False
) -> None:
    """The greatest number of tasks that a separation holds."""
    from theory.planner import PLANNED_RUNGS, tasks_for

    with _named():
        _show_plans([tasks_for(separation, dimension, components, error, name) for name in ([rung] if rung else PLANNED_RUNGS)], json_)


@plan_app.command("samples")
def plan_samples(
    tasks: _Tasks, separation: _Delta, dimension: _Dimension, error: _Error, components: _Components = 1, json_: _Json = False
) -> None:
    """The samples per cluster that are enough, in expectation, for signatures estimated from them."""
    from theory.planner import samples_per_cluster

    with _named():
        _show_plans([samples_per_cluster(dimension, tasks, components, separation, error)], json_)


@plan_app.command("batch")
def plan_batch(
    tasks: _Tasks, separation: _Delta, dimension: _Dimension, error: _Error, components: _Components = 1, json_: _Json = False
) -> None:
    """The least batch of queries of one task, scores summed, that meets the target."""
    from theory.planner import batch_for

    with _named():
        _show_plans([batch_for(tasks, components, dimension, separation, error)], json_)


@contextmanager
def _named() -> Iterator[None]:
    """Name the option at fault, where the planner names its argument."""
    options = {"d": "--dimension", "delta": "--separation", "eps": "--error"}
    try:
        yield
    except InputError as error:
        raise InputError(options.get(error.argument, f"--{error.argument}"), error.problem) from None


def _show_plans(plans: list[Plan], json_: bool) -> None:
    """Print plans, one row for each rung, and what they assume."""
    if json_:
        print(json.dumps({"plans": [plan.to_dict() for plan in plans]}, allow_nan=False))
        return
    from rich.table import Table

    table = Table(
        "rung", "level", "answer", "error at most", "next cheaper", "error at most", title=plans[0].question, title_justify="left"
    )
    for plan in plans:
        answer = "none" if plan.answer is None else _plain(plan.answer)
        other = plan.neighbour_bound
        table.add_row(
            plan.rung,
            plan.level.value,
            answer,
            f"{plan.value:.6g}",
            "-" if plan.neighbour is None else _plain(plan.neighbour),
            "-" if other is None else f"{other.value:.6g}",
        )
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(table)
    for plan in plans:
        if plan.note:
            console.print(f"{plan.rung}: {plan.note}.", markup=False)
    console.print(f"Assumes: {plans[0].assumptions}.", markup=False)


def _plain(number: float) -> str:
    """A number as text: whole ones in full unless they are astronomical, others with the six digits that they have."""
    if isinstance(number, int):
        digits = str(number)
        return digits if len(digits) <= 30 else f"about {digits[0]}.{digits[1:6]}e{len(digits) - 1}"
    return f"{number:.6g}"


def _json(rungs: dict[str, Bound]) -> dict[str, dict]:
    # Nothing was measured, so nothing can be said of whether a rung holds.
    return {name: {**item.to_dict(), "holds": None, "broken_assumption": None} for name, item in rungs.items()}


def main() -> None:
    """Run the command; one line on standard error tells of bad input (exit status 2) and of a full or failing disk (1)."""
    try:
        app()
    except InputError as error:
        if is_main():
            print(f"proteus-bounds: {' '.join(str(error).split())}", file=sys.stderr)
        stop(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        what = " ".join(str(error.strerror or error).split())
        print(f"proteus-bounds: {where}{what}; no file is half-written: mend this and run the same command again", file=sys.stderr)
        stop(1)


if __name__ == "__main__":
    main()
