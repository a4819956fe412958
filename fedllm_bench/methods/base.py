"""FedAvg, and with it the hooks that every other method may override.

McMahan et al., 2017 (arXiv:1602.05629), Algorithm 1, with S_t the clients of round t and n_k their examples:

    server:  x^{t+1} = sum_{k in S_t} (n_k / n) y_k          that is, x + the weighted mean of y_k - x
    client:  y = x;  for each local step: y = y - lr grad f_k(y)

The server never sees a client's rows, only its upload; a client never sees another client's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedllm_bench.common.directions import ProbeStep
from fedllm_bench.common.trees import Tree, tmap

Message = dict[str, Tree]  # server -> clients; always "params"
Upload = dict[str, Tree]  # client -> server; always "delta" = y - x
ClientState = dict[str, Tree]  # stays with the client between rounds; {} for most methods
# Of these the mean is by the clients' weights; of all else, such as control variates, it is uniform. "held" are the
# rows of an adapter that a client has (`methods/adapters/ranks.py`): those of a client without weight are nobody's.
BY_WEIGHT = ("delta", "held")
Weighting = Literal["examples", "uniform"]
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
# mu of a zeroth-order step. Below, the rounding of a loss in float32 over 2 mu is larger than most slopes, and then mu
# z is lost in the weights; above, it is larger than the weights.
Distance = Annotated[float, Field(ge=1e-6, le=1)]


@dataclass(frozen=True)
class Server:
    """Everything the server keeps between rounds; saving it is the checkpoint."""

    params: Tree
    slots: dict[str, Tree] = field(default_factory=dict)
    round: int = 0


@dataclass(frozen=True)
class Phase:
    """A part of a client's round: the method whose hooks train it, and the planned steps that it takes, by number."""

    method: FedAvg
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """FedAvg; `weighting` says whether a client counts by its number of examples or as one."""

    weighting: Weighting = "examples"
    # What the method is defined for; a run that asks for another weighting is refused.
    weightings: ClassVar[tuple[Weighting, ...]] = ("examples", "uniform")
    # True where each client answers with a model of its own (`serve`).
    personal: ClassVar[bool] = False
    # False where nothing goes over the network.
    sends: ClassVar[bool] = True
    # True where the server needs all uploads of a round at once (`combine`), not their running mean alone.
    needs_all: ClassVar[bool] = False
    # Why all uploads of an aggregation must have begun from the same model; "" where they need not (docs/clock.md).
    of_one_round: ClassVar[str] = ""
    # True where one learner holds the rows of all clients.
    pooled: ClassVar[bool] = False

    def init(self, params: Tree) -> Server:
        return Server(params)

    def client_init(self, params: Tree) -> ClientState:
        """The state of a client that was never chosen."""
        return {}

    def broadcast(self, server: Server) -> Message:
        return {"params": server.params}

    def tell(self, server: Server, client: int) -> Message:
        """What the server sends to client number `client` alone; the hooks see it beside the client's state."""
        return {}

    def travels(self, message: Message, told: Message) -> Message:
        """What goes over the network to a client who is `told` this: all of it, or what the client has not already."""
        return {**message, **told}

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """A client's round of `steps` planned steps as trainings one after another.

        The state of one is where the next begins, and the upload is that of all together; each has a new optimiser.
        """
        return (Phase(self, tuple(range(steps))),)

    def start(self, message: Message, client: ClientState) -> Tree:
        """Where local training begins."""
        return message["params"]

    def probe(self, message: Message, client: ClientState, moment: int) -> ProbeStep | None:
        """Along which direction a local step takes the loss, without a backward pass; None where it is to have one.

        `moment` is a number of (seed, round, client, step), to draw from. The slope along the direction, times the
        direction, is the gradient that `correct` and the optimiser see. `finish` then finds the seeds and slopes of all
        steps under "probes" of its client, as "seeds" and "slopes", (T,) each, and no mean gradient.
        """
        return None

    def mixture(self, client: ClientState) -> Tensor | None:
        """(M,) shares, of sum 1, of the M adapters that the trees of the run are of (`common/mixtures.py`), where a row
        of the client may be of any; None where each tree is one adapter, which all rows are of.

        A row then moves each adapter by the probability q that it is of it, and has the probability of all together.
        `finish` finds the mean of q over the rows of the phase as "pi" under "mixed" of its client.
        """
        return None

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        """The gradient to use instead of `grads`, before clipping and the optimiser."""
        return grads

    def after_step(self, y: Tree, message: Message, client: ClientState, lr: float) -> Tree:
        return y

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        """The client's next state and its upload; `mean_grad` is the mean uncorrected, unclipped gradient."""
        return client, {"delta": tmap(lambda y, x: y - x, y, message["params"])}

    def receive(self, server: Server, upload: Upload) -> Upload:
        """What the server adds up of one client's upload; a wrapper converts or clips it here."""
        return upload

    def expected_clients(self) -> float | None:
        """The fixed number by which sums of uploads are divided; None: by the weights of who answered."""
        return None

    def combine(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> Upload:
        """What `update` takes as the mean, from all received uploads of a round; asked where `needs_all` is True."""
        return weighted_mean(uploads, weights)

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        """The server's next state from the mean upload of the `fraction` of clients who answered."""
        params = tmap(lambda x, d: x + d, server.params, mean["delta"])
        return replace(server, params=params, round=server.round + 1)

    def grown(self, server: Server, uploads: Sequence[Upload]) -> Server:
        """The server after a round with these uploads, as far as it may send more from then on; only shapes matter."""
        return server

    def adapter(self, server: Server) -> Tree:
        """The global adapter, as it is written and evaluated."""
        return server.params

    def serve(self, params: Tree, client: ClientState) -> Tree:
        """The adapter with which a client answers after training; `client` is its state and what it was told."""
        return params

    def changes(self, hook: str) -> bool:
        """Whether the method has a `hook` of its own; FedAvg's need not be called (packing costs 2 ms a step)."""
        return getattr(type(self), hook) is not getattr(FedAvg, hook)


def trains_alone(method: FedAvg | type[FedAvg]) -> bool:
    """Whether each client trains by itself and shares nothing, as under `local`: then there is no global adapter."""
    return method.personal and not method.sends


def weighted_mean(uploads: Sequence[Upload], weights: Sequence[float]) -> Upload:
    """Of `BY_WEIGHT` the weighted mean, of all else the uniform one; zero where nothing has a weight."""
    return {
        key: _mean([upload[key] for upload in uploads], weights if key in BY_WEIGHT else [1.0] * len(uploads))
        for key in uploads[0]
    }


def _mean(trees: Sequence[Tree], weights: Sequence[float]) -> Tree:
    scaled = [tmap(lambda tensor, w=weight: tensor * w, tree) for tree, weight in zip(trees, weights, strict=True)]
    total = reduce(lambda one, other: tmap(lambda a, b: a + b, one, other), scaled)
    return tmap(lambda tensor: tensor / (sum(weights) or 1.0), total)
