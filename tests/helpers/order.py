"""Which test files share a worker, and which begin: what takes longest, so that none ends alone."""

DEMO = (
    "pipeline/test_demo.py",
    "app/test_app.py",
    "app/test_sample.py",
    "app/test_errors.py",
    "criteria/test_criteria_demo.py",
    "cli/test_demo.py",
    "evaluation/test_zero_shot.py",
    "evaluation/test_evaluation.py",
    "models/test_generation.py",
    "models/test_models.py",
    "studies/test_estimates.py",
)
"""They load the demo model: it is converted, loaded and scored by one worker alone."""

PROCESSES = (
    "cli/test_sweep.py",
    "cli/test_recover.py",
    "cli/test_errors.py",
    "export/test_modelling_file.py",
    "pipeline/test_recovery.py",
    "cli/test_processes.py",
    "cli/test_shared.py",
    "models/test_processes.py",
    "cli/test_plan.py",
    "cli/test_reproduce.py",
    "cli/test_zero_shot.py",
    "export/test_reload.py",
    "export/test_full_disk.py",
    "store/test_runs_shared.py",
    "store/test_unfinished.py",
    "export/test_readers.py",
)
"""They start real processes: those are forked from drivers of one worker alone."""

LONG = (
    "app/test_paper.py",
    "app/test_sidebar.py",
    "packaging/test_wheel.py",
    "app/test_recover.py",
    "app/test_compare.py",
    "cli/test_every_option.py",
    "cli/test_output.py",
    "app/test_zero_shot.py",
    "app/test_plan.py",
    "app/test_sweep.py",
    "pipeline/test_presets.py",
    "app/test_reconstruction.py",
    "app/test_runs.py",
    "pruning/test_slicing.py",
    "pruning/test_compensation.py",
    "pruning/test_slicing_sublayers.py",
    "models/test_streaming.py",
    "models/test_pruned_classes.py",
    "packaging/test_gpu_check.py",
    "app/test_server.py",
    "evaluation/test_profiling.py",
    "studies/test_sweeps.py",
    "app/test_links.py",
)
"""Each by itself, but before the files that are not named here."""

_GROUPS = dict.fromkeys(DEMO, "demo") | dict.fromkeys(PROCESSES, "processes")
_RANKS = {file: rank for rank, file in enumerate((*DEMO, *PROCESSES, *LONG))}


def file_of(nodeid: str) -> str:
    """The file of a test, below the folder of the tests."""
    return nodeid.partition("::")[0].removeprefix("tests/")


def rank(nodeid: str) -> int:
    """Where the file of a test stands in the order; all others come after."""
    return _RANKS.get(file_of(nodeid), len(_RANKS))


def group(nodeid: str) -> str:
    """What a worker takes as one piece: a group above, or a file."""
    return _GROUPS.get(file_of(nodeid), file_of(nodeid))


def scheduler(config, log):
    """Gives out whole groups, in the order in which the tests were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class InOrder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False
    return InOrder(config, log)
