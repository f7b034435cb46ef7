"""What everything else works with: the run store, the progress, and the models in memory."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..criteria.moments import (
    SECOND_MOMENTS,
    SecondMoments,
    second_moment_bytes,
    second_moments_by_block,
)
from ..criteria.statistics import STATISTICS, Statistics, collect_statistics
from ..data.beginnings import NONE, resolve_beginning
from ..data.calibration import load_calibration
from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.batches import rows_for
from ..models.devices import resolve_device
from ..models.families import family_of
from ..models.loading import FoundModel, empty_model, find_model, load_config, load_found
from ..models.memory import AUTO, check_free
from ..models.processes import place, together
from ..models.running import check_vocabulary
from ..progress import Progress, Tracker
from ..specs import CalibrationSpec, ModelSpec
from ..store.runs import RunStore
from .kept import DENSE, Kept, resident_bytes


class Workbench:
    """A run store, a progress, and the models that are ``kept`` in memory. ``before_loading`` is
    called, and may raise InputError, when the first has been found and is about to be loaded.

    ``progress`` is told how far the work is, and never goes back. ``found`` is where the model that
    was asked for last lies.
    """

    def __init__(
        self,
        store: RunStore | None = None,
        progress: Progress | None = None,
        kept: Kept | None = None,
        before_loading: Callable[[], None] | None = None,
    ):
        self.store = store or RunStore()
        self.progress = Tracker(progress)
        self.found: FoundModel | None = None
        self.kept = Kept() if kept is None else kept
        self._before_loading = before_loading

    def model(self, spec: ModelSpec) -> tuple[nn.Module, Any]:
        """The dense model and its tokenizer, loaded again where its files have changed."""
        before = spec.identity()
        entry = self.kept.find(DENSE, [asdict(spec), before])
        if entry is None:
            self.kept.forget(spec)
            how = {"device": spec.device, "dtype": spec.dtype, "memory": spec.memory}
            with self.progress.within(0.0, 0.2) as progress:
                found = find_model(spec.name, store=self.store, progress=progress)
                if self._before_loading is not None and not any(self.kept):
                    self._before_loading()
                self._make_room(spec)
                model, tokenizer = load_found(found, **how, progress=progress)
            now = spec.identity()  # what identifies a hub model is known only now
            if found.folder == Path(spec.name).expanduser() and now != before:
                raise InputError(f"{spec.name} changed while it was read; try again.")
            beside = tokenizer, found
            entry = self.kept.put(DENSE, [asdict(spec), now], spec, model, beside)
        tokenizer, self.found = entry.beside
        return entry.value, tokenizer

    def _make_room(self, spec: ModelSpec) -> None:
        """Let go of what does not fit beside a model that is about to be loaded."""
        if any(self.kept):
            device, config = resolve_device(spec.device), load_config(spec.name, store=self.store)
            stored = torch.float32 if device == "cpu" else config.dtype or torch.float32
            dtype = stored if spec.dtype == AUTO else getattr(torch, spec.dtype)
            need = sum(one.numel() for one in empty_model(config).parameters()) * dtype.itemsize
            self.kept.make_room(need, device=device, memory=spec.memory)

    def derived(
        self, kind: str, spec: ModelSpec, made_from: Any, make: Callable[[nn.Module], nn.Module]
    ) -> nn.Module:
        """What ``make`` makes of the dense model ``spec``, unless it is kept; it is kept in the
        place of the last of its ``kind``."""
        model, _ = self.model(spec)
        entry = self.kept.find(kind, made_from)
        if entry is None:
            self.kept.replace(kind)
            device = resolve_device(spec.device)
            self.kept.make_room(resident_bytes(model), device=device, memory=spec.memory)
            entry = self.kept.put(kind, made_from, spec, make(model))
        return entry.value

    def ensure_content(self, spec: ModelSpec) -> None:
        """Fetch a hub model that is not here yet: results are kept by its content."""
        if spec.identity()["content"] is None:
            self.model(spec)

    def locate(self, spec: ModelSpec) -> None:
        """See that other processes find the model on the disk, if there are any."""
        if place().count > 1:
            find_model(spec.name, store=self.store)

    def calibration(self, model: ModelSpec, spec: CalibrationSpec) -> CalibrationSet:
        """The token ids to calibrate ``model`` on."""
        network, tokenizer = self.model(model)
        self.progress(0.2, f"Tokenising {spec.source}")
        leans = family_of(network.config).leans_on_beginning
        kind = resolve_beginning(spec.beginning, leans=leans, otherwise=NONE)
        settings = asdict(spec) | {"beginning": kind}
        found = load_calibration(tokenizer=tokenizer, **settings)
        check_vocabulary(network, found.tokens, tokenizer)
        return found

    def statistics(self, model: ModelSpec, calibration: CalibrationSpec) -> Statistics:
        """The statistics of one forward pass; every activation criterion reads the same."""

        def compute() -> Statistics:
            self.locate(model)
            return together(self, Workbench.collect_statistics, model, calibration)

        return self.store.get(STATISTICS, _pass(model, calibration), compute)

    def collect_statistics(self, model: ModelSpec, calibration: CalibrationSpec) -> Statistics:
        """What `statistics` stores."""
        tokens = self.calibration(model, calibration)
        network, _ = self.model(model)
        with self.progress.within(0.25, 0.9) as progress:
            rows = rows_for(network, calibration.seq_len)
            return collect_statistics(network, tokens, batch_size=rows, progress=progress)

    def second_moments(self, model: ModelSpec, calibration: CalibrationSpec) -> SecondMoments:
        """What least squares refits from: one more forward pass, and much room on the disk."""
        self.ensure_content(model)

        def build(folder: Path) -> None:
            self.locate(model)
            together(self, Workbench.write_second_moments, model, calibration, folder)

        for _ in range(2):
            folder = self.store.folder(SECOND_MOMENTS, _pass(model, calibration), build)
            with contextlib.suppress(FileNotFoundError):  # another process cleared the store
                return SecondMoments.from_files(sorted(folder.glob("block-*.safetensors")))
        raise InputError("The second moments were removed while they were read; start again.")

    def write_second_moments(
        self, model: ModelSpec, calibration: CalibrationSpec, folder: Path
    ) -> None:
        """Collect what `second_moments` stores; the main process writes it into ``folder``."""
        tokens = self.calibration(model, calibration)
        network, _ = self.model(model)
        need = second_moment_bytes(Adapter(network).shape, tokens.tokens.numel())
        check_free(network, max(need), "use fewer or shorter samples, or another compensation")
        self.progress(0.25, f"Second moments: {sum(need) / 2**20:,.0f} MiB on the disk")
        with self.progress.within(0.25, 0.9) as progress:
            settings = {"batch_size": rows_for(network, calibration.seq_len), "progress": progress}
            blocks = second_moments_by_block(network, tokens, **settings)
            for index, tensors in enumerate(blocks):
                if place().is_main:
                    save_file(tensors, folder / f"block-{index:04}.safetensors")


def _pass(model: ModelSpec, calibration: CalibrationSpec) -> dict:
    return {"model": model.identity(), "calibration": calibration.identity()}
