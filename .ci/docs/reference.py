"""The pages of the reference: every public name of the four packages, grouped as the READMEs group them.

What a name is and where it stands is read from the sources, so that nothing is imported before Sphinx imports it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GROUPS: Mapping[str, Mapping[str, str]] = {
    "circuits": {
        "The model": """
            HookedStreamTransformer ModelConfig icl_config lm_config LM_SIZES parameter_count State
            KeyValueCache Site
        """,
        "Streams and gates": """
            Stream GateRule Topology Previous Cumulative First Listed Dense WithinLayer Tables Gain
            FixedGain LearnedGain TokenGain SigmoidGain ChannelGain Transform Identity HeadMixing
            LinearMap
        """,
        "Parts of models of other makes": """
            MLP QKNorm Rotary Llama3Rotary HalfTruncatedRotary ResidualScalars Smear Backout
        """,
        "Inputs, readouts and initial weights": """
            TokenInputs VectorInputs Unembedding ReluStack Start NormalInit ToyInit Normal Constant Eye
        """,
        "Load and store": """
            load_pretrained export_huggingface load_checkpoint save_checkpoint transplant CheckpointError
        """,
        "Add a variant": """
            variants register_variant register_gain ComputedGain register_transform ComputedTransform
            register_topology KindError UnknownNameError
        """,
        "Interventions": """
            Intervention intervened Zero Mean Clamp Resample FromRun Freeze Attend CutForward CutGradient Without
            NothingChangedError
        """,
        "The associative memory": "AMICL Sequences",
    },
    "analysis": {
        "Pairs and metrics": "Pair PairsFile METRICS ReadMetric NoGapError WeakPairWarning KeptIn",
        "Patching": "patch PatchResult Site find_sites route_map RouteMap",
        "Edges and paths": "Graph patch_paths find_paths PathResult head_shares HeadShares EdgeSwitch",
        "Attribution": "attribute SiteScores attribute_edges EdgeScores",
        "Logits": "attribute_logits LogitAttribution logit_lens LogitLens",
        "Circuits": "find_circuit Circuit judge Quality follow CircuitSteps",
        "Ablation": "ablate ablate_edges Ablation Ablations standard_ablations",
        "Heads": """
            attention_view AttentionView score_heads score_retrieval AttentionScore HeadScores copy_score
            eigenvalue_copying head_composition Composition
        """,
        "Gradients": "split_gradient GradientSplit Connection",
        "Statistics over seeds": """
            compare Comparison threshold_times threshold_table survival_curves over_seeds mean_interval
            paired_ratio adjust
        """,
    },
    "experiments": {
        "Runs and sweeps": """
            icl_run lm_run RunConfig sweep sweep_plan train Run RunError runs_table all_metrics
            import_model
        """,
        "Training": """
            TRAINING LM_TRAINING TrainingConfig TokenTraining SGD Adam AdamW Rate GateChange At Every
            LogLinear AtLevels StopAt
        """,
        "Questions to a run": """
            Question Patch MapRoutes Paths Attribute FindCircuit Ablate Heads ViewAttention Logits
            Gradients IndirectObjects Explore explore
        """,
        "Tasks": """
            ICLTask ICLTaskConfig StoriesTask StoriesConfig IOITask IOIConfig NestedTask NestedConfig
            RepeatsTask RepeatsConfig TextTask TextTaskConfig BooksTask BooksConfig plain_english
        """,
        "Add a task": """
            register_task make_task Task TrainedTask TokenTask TokenTaskConfig TokenBatch VectorTask
            VectorTaskConfig VectorBatch VectorSizes
        """,
        "Results and figures": "Bundle collect register_figure",
    },
    "figures": {
        "Files and pages": "write_figure write_images write_page",
        "Of models": """
            patch_heat_map route_heat_maps path_heat_maps share_bars edge_drawing circuit_drawing
            circuit_curves ablation_bars attention_maps logit_attribution_bars logit_lens_curves
            gradient_pairs gradient_shares
        """,
        "Of trainings": """
            learning_curves run_curves all_curves progress_measures head_scores phases time_ratios windows survival
            sensitivity gradient_share_curves
        """,
        "Of language models": """
            loss_curves ioi_curves ioi_by_sentence head_score_maps route_maps nested_curves scaling
            cost_against_gain gap_curves
        """,
        "Of the associative memory": "accuracy_by_a accuracy_by_size best_a heat_maps",
    },
}
"""The public names of every package, by the heading that they stand under."""

SHARED = {"analysis": {"What results have in common": ("circuits.common.showing.Shown", "analysis.result.Effects")}}
"""Bases of public classes that are not public themselves, and say what their kinds can do."""

_BASES_OF_OTHERS = "HookedRootModule, HookIntrospectionMixin, Module"


def public(package: str) -> list[str]:
    """Return the names in a package's ``__all__``."""
    for node in ast.parse((ROOT / package / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{package}/__init__.py has no __all__")


@cache
def imported(package: str, name: str) -> str:
    """Return the module or folder that a package imports a public name from.

    Raises:
        ValueError: where the package imports it from nowhere.
    """
    for node in ast.walk(ast.parse((ROOT / package / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return str(node.module)
    raise ValueError(f"{package}/__init__.py imports {name} from nowhere")


def home(package: str, name: str) -> str:
    """Return the module that a public name is defined in, or that it is."""
    of = imported(package, name)
    return f"{of}.{name}" if file_of(f"{of}.{name}").is_file() else of


def file_of(module: str) -> Path:
    """Return the file that a module would be."""
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def documented() -> set[str]:
    """Return the modules of which the site has the source: those that something in the reference comes from."""
    shared = {name.rpartition(".")[0] for groups in SHARED.values() for names in groups.values() for name in names}
    return shared | {home(package, name) for package in GROUPS for name in public(package)}


def page(heading: str) -> str:
    """Return what the page of a heading is called."""
    return re.sub(r"\W+", "-", heading.lower())


def pages() -> dict[str, str]:
    """Return the text of every page of the reference, by its name.

    Raises:
        ValueError: where a public name stands under no heading or under two, or one under a heading is not public.
    """
    found = {}
    for package, groups in GROUPS.items():
        grouped = [name for names in groups.values() for name in names.split()]
        if sorted(grouped) != sorted(public(package)):
            differ = sorted({*grouped} ^ {*public(package)}) or "a name stands twice"
            raise ValueError(f"GROUPS in {Path(__file__).name} and {package}.__all__ differ: {differ}")
        for heading, names in groups.items():
            entries = [_entry(package, name) for name in names.split()]
            found[f"{package}/{page(heading)}"] = _page(heading, entries)
        for heading, names in SHARED.get(package, {}).items():
            entries = [f".. autoclass:: {name}\n   :members:" for name in names]
            found[f"{package}/{page(heading)}"] = _page(heading, entries)
        inside = [page(heading) for heading in (*groups, *SHARED.get(package, {}))]
        says = str(ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())))
        found[f"{package}/index"] = f"# {package}\n\n{says}\n\n```{{toctree}}\n" + "\n".join(inside) + "\n```\n"
    return found


def _page(heading: str, entries: list[str]) -> str:
    return f"# {heading}\n\n" + "\n\n".join(f"```{{eval-rst}}\n{entry}\n```" for entry in entries) + "\n"


def _entry(package: str, name: str) -> str:
    """What Sphinx is told of one name."""
    module, full = home(package, name), f"{package}.{name}"
    if module != imported(package, name):
        return f".. automodule:: {module}\n   :members:"
    owner = module.split(".")[0]
    if owner != package and name in public(owner):
        return f".. py:class:: {full}\n   :no-index-entry:\n\n   :class:`{owner}.{name}`, handed on."
    statement, docstring = _definition(module, name)
    if isinstance(statement, ast.FunctionDef):
        return f".. autofunction:: {full}"
    if isinstance(statement, ast.ClassDef):
        inherited = f"\n   :inherited-members: {_BASES_OF_OTHERS}" if name == "HookedStreamTransformer" else ""
        return f".. autoclass:: {full}\n   :members:\n   :show-inheritance:{inherited}"
    typed = f"\n   :type: {ast.unparse(statement.annotation)}" if isinstance(statement, ast.AnnAssign) else ""
    return f".. py:data:: {full}{typed}\n\n" + "\n".join(f"   {line}" for line in docstring.splitlines())


def _definition(module: str, name: str) -> tuple[ast.stmt, str]:
    """The statement of a module that defines a name, and what is said of it if it is a value: in a string after it."""
    body = ast.parse(file_of(module).read_text()).body
    for statement, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.name == name:
            return statement, ""
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            said = after.value if isinstance(after, ast.Expr) else None
            if not isinstance(said, ast.Constant):
                raise ValueError(f"{module}.{name} is public, and no string after it says what it is")
            return statement, str(said.value)
    raise ValueError(f"{module} does not define {name}")
