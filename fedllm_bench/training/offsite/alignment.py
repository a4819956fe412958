"""The server's alignment of the emulator on public rows, before round 1 and under FedBiOT before each later one.

What it comes to is a function of the seed, the round and the server: rows and steps are those of a client that is none.
It is kept in checkpoint/ as it goes on, so that a session that is stopped in the middle goes on there, bit for bit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from fedllm_bench.common.directions import mixed
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import make_folder
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.progress import Share
from fedllm_bench.common.trees import Layout, Tree
from fedllm_bench.config.parts.offsite import Offsite
from fedllm_bench.config.run import Local
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.methods.adapters.emulated import EMULATOR
from fedllm_bench.methods.base import Server
from fedllm_bench.training import optimizer
from fedllm_bench.training.batches import plan_steps
from fedllm_bench.training.checkpoint import changed, load_trees, save_trees, unlike
from fedllm_bench.training.model.lora import attach, detach, initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, Student
from fedllm_bench.training.offsite.losses import alignment_loss

log = logging.getLogger(__name__)
FILE = "alignment.safetensors"
NOBODY = 2**31 - 1  # the number of the client whose rows and steps the alignment has; real ones have smaller numbers
FIRST_VALUES = 9  # the purpose of a random stream
PROBED, PROBED_SHARE = 8, 0.2  # rows that it is measured on and never trained on: so many, or that share if fewer
SAVED_EVERY = 50  # steps
ASKED_EVERY = 1.0  # seconds between looks at whether to stop, of one that waits for another run


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """`model` has a student; `rows` are public ones, `adapter_of` says what the server's adapter is.

    It is kept in `folder`; that before round 1, which is the same for all methods, in `shared` where that is given.
    """

    model: LoraModel
    offsite: Offsite
    local: Local
    rows: Sequence[TokenRow]
    seed: int
    folder: Path
    adapter_of: Callable[[Server], Tree]
    alone: bool = False  # each client trains by itself, so that there is no adapter to align to after round 1
    shared: Path | None = None
    stop: Stop = field(default_factory=Stop)

    def __call__(self, server: Server) -> tuple[Server, dict[str, Any]]:
        """The server with an aligned emulator, and what the round's record says of it.

        Raises Interrupted once `stop` is asked for, and a :class:`UserError` where a loss is not finite.
        """
        steps = self.steps_before(server.round)
        if not steps:
            return server, {}
        folder = make_folder(self.shared if self.shared and server.round == 0 else self.folder)
        with self._alone_in(folder):  # another run may be at the same alignment: then it is read
            begun = self._begun(folder / FILE, server, steps) or Begun(emulator=server.slots[EMULATOR])
            done = self._went_on(begun, server, steps, folder / FILE)
        notes = {"steps": steps, "before": done.notes["before"], "after": done.notes["after"]}
        return replace(server, slots=server.slots | {EMULATOR: done.emulator}), {"alignment": notes}

    def steps_before(self, round_num: int) -> int:
        """Steps of the alignment before round `round_num` (0 is the first)."""
        if round_num == 0:
            return self.offsite.steps
        return self.offsite.round_steps if self.offsite.realigns and not self.alone else 0

    @contextmanager
    def _alone_in(self, folder: Path) -> Iterator[None]:
        """No other run is at the alignment in `folder` inside the block. May raise Interrupted before."""
        lock, waits = FileLock(folder / ".align.lock"), False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=ASKED_EVERY)
            except Timeout:
                self.stop.check()
                if not waits:
                    log.info("another process aligns the same emulator; waiting for it")
                waits = True
        try:
            yield
        finally:
            lock.release()

    def _begun(self, path: Path, server: Server, steps: int) -> Begun | None:
        """What a session left; a file in the cache that is damaged is made anew, as all that lies there."""
        try:
            return Begun.of(path, server, steps)
        except UserError as error:
            if path.parent != self.shared:
                raise
            log.warning("%s; it is made anew", str(error).partition(", so that")[0])
            return None

    def _went_on(self, begun: Begun, server: Server, steps: int, path: Path) -> Begun:
        """The alignment from where it stands to its end."""
        if begun.is_done:
            return begun
        with _holding(self.model, self.adapter_of(server)) as student:
            if not begun.notes:
                begun = replace(begun, notes={"before": self._probe(student, begun.emulator)})
            begun = self._stepped(student, begun, server.round, steps, path)
            after = self._probe(student, begun.emulator)
        if not math.isfinite(after):
            raise self._diverged(steps)
        begun = replace(begun, notes=begun.notes | {"after": after}, is_done=True)
        begun.save(path, server.round)
        return begun

    def _stepped(self, student: Student, begun: Begun, round_num: int, steps: int, path: Path) -> Begun:
        layout = Layout.of(begun.emulator)
        device = self.model.device
        y_1P = layout.pack(begun.emulator)[None].to(device)
        state = begun.optimizer_state(layout, y_1P, self.offsite.optimizer)
        local = replace(self.local, optimizer=self.offsite.optimizer, lr=self.offsite.lr, weight_decay=0.0)
        plan = plan_steps(self.seed, round_num, NOBODY, num_rows=self.num_trained, steps=steps,
                          micro_batch=self.offsite.rows, accumulation=1)  # fmt: skip
        label = "align the emulator" if round_num == 0 else f"align before round {round_num + 1}"

        def so_far(step: int) -> Begun:
            emulator = {name: t.cpu().clone() for name, t in layout.unpack(y_1P[0]).items()}
            return begun.at(step, emulator, layout, state)

        with Share(label, steps, is_brief=round_num > 0) as share:
            share.reach(begun.step, is_new=False)
            for step in range(begun.step, steps):
                (micro,) = plan[step]
                self._step(student, [self.rows[row] for row in micro], layout, y_1P, state, local)
                if self.stop.asked or (step + 1) % SAVED_EVERY == 0:
                    so_far(step + 1).save(path, round_num)
                self.stop.check()
                share.reach(step + 1, is_new=True)
        return so_far(steps)

    def _step(
        self,
        student: Student,
        rows: Sequence[TokenRow],
        layout: Layout,
        y_1P: Tensor,
        state: optimizer.OptimizerState,
        local: Local,
    ) -> None:
        leaf = y_1P.detach().requires_grad_()
        loss = self._loss(student, layout.unpack(leaf), rows)
        (grad,) = torch.autograd.grad(loss, leaf)
        if not math.isfinite(float(loss.detach())) or not bool(torch.isfinite(grad.sum())):
            raise self._diverged(state.step + 1)
        optimizer.OPTIMIZERS[local.optimizer](y_1P, optimizer.clip(grad, local.clip), state, local)
        if not bool(torch.isfinite(y_1P).all()):  # else it could be saved
            raise self._diverged(state.step)

    def _diverged(self, step: int) -> UserError:
        lr = self.offsite.lr
        return UserError(
            f"offsite.lr={lr:g}: the loss of the alignment is not finite at step {step}; give a tenth of it: "
            f"--set offsite.lr={lr / 10:g}"
        )

    def _loss(self, student: Student, emulator_1: Tree, rows: Sequence[TokenRow]) -> Tensor:
        attach(student.emulator, emulator_1)
        try:
            return alignment_loss(self.model, student.model, rows, self.offsite)
        finally:
            detach(student.emulator)

    @property
    def num_trained(self) -> int:
        """Rows that it trains on: the others come last."""
        return max(1, len(self.rows) - min(PROBED, int(PROBED_SHARE * len(self.rows))))

    def _probe(self, student: Student, emulator: Tree) -> float:
        """The mean loss of rows that it does not train on; of the rows it trains on where there are no others."""
        places = range(self.num_trained, len(self.rows)) or range(len(self.rows))
        each = {name: tensor[None].to(self.model.device) for name, tensor in emulator.items()}
        with torch.no_grad():
            losses = [float(self._loss(student, each, [self.rows[place]])) for place in places]
        return round(sum(losses) / len(losses), 6)


@contextmanager
def _holding(model: LoraModel, adapter: Tree) -> Iterator[Student]:
    """Inside the block the whole model and its student have one adapter, the server's."""
    student = model.student
    assert student is not None
    stacked = {name: tensor[None].to(model.device) for name, tensor in adapter.items()}
    both = (model.layers, student.model.layers)
    try:
        for layers in both:
            attach(layers, stacked)
        yield student
    finally:
        for layers in both:
            detach(layers)


@dataclass(frozen=True)
class Begun:
    """How far an alignment has come; `moments` are those of AdamW."""

    emulator: Tree
    step: int = 0
    moments: dict[str, Tree] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)
    is_done: bool = False

    @classmethod
    def of(cls, path: Path, server: Server, steps: int) -> Begun | None:
        """What a session left of the alignment before this round; None where there is nothing.

        Raises a :class:`UserError` for what no session can have left.
        """
        if not path.is_file():
            return None
        like = server.slots[EMULATOR]
        trees, found = load_trees(path, lambda shapes: unlike(shapes, dict.fromkeys((EMULATOR, *shapes), like)))
        if found.get("round") != server.round:
            return None
        if not _can_be(found, steps):
            raise changed(path, "it is of steps that this run does not have")
        moments = {key: tree for key, tree in trees.items() if key != EMULATOR}
        if not all(bool(tensor.isfinite().all()) for tree in trees.values() for tensor in tree.values()):
            raise changed(path, "a number of it is not finite")
        return cls(trees[EMULATOR], found["step"], moments, found["notes"], found["is_done"])

    def save(self, path: Path, round_num: int) -> None:
        about = {"round": round_num, "step": self.step, "notes": self.notes, "is_done": self.is_done}
        save_trees(path, {EMULATOR: self.emulator, **({} if self.is_done else self.moments)}, about)

    def at(self, step: int, emulator: Tree, layout: Layout, state: optimizer.OptimizerState) -> Begun:
        """The same alignment after so many steps."""
        moments = {"m": state.m, "v": state.v} if state.m.numel() else {}
        trees = {key: {n: t.cpu().clone() for n, t in layout.unpack(x[0]).items()} for key, x in moments.items()}
        return replace(self, step=step, emulator=emulator, moments=trees)

    def optimizer_state(self, layout: Layout, y_1P: Tensor, name: str) -> optimizer.OptimizerState:
        state = optimizer.new_state(y_1P, name)
        for key, tree in self.moments.items():
            setattr(state, key, layout.pack(tree)[None].to(y_1P.device))
        state.step = self.step
        return state


def _can_be(found: Mapping[str, Any], steps: int) -> bool:
    """Whether an alignment of so many steps can have left this beside its tensors."""
    step, notes, is_done = found.get("step"), found.get("notes"), found.get("is_done")
    if type(step) is not int or type(is_done) is not bool or not isinstance(notes, dict):
        return False
    told = {"before", "after"} if is_done else {"before"}
    are_numbers = all(type(value) is float and math.isfinite(value) for value in notes.values())
    return notes.keys() == told and are_numbers and (step == steps if is_done else 0 <= step <= steps)


def first_emulator(model: LoraModel, rank: int, seed: int) -> Tree:
    """The emulator's weights before any alignment: those of the whole model's layers, or LoRA that changes nothing.

    Raises a :class:`ValueError` for a model without a student.
    """
    if model.student is None:
        raise ValueError("a model without a student has no emulator")
    return initial_adapter(model.student.emulator, rank, mixed(FIRST_VALUES, seed))
