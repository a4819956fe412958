"""Fewer bytes around any method: rounded uploads with error feedback, and rounded downloads.

Error feedback: Seide et al., 2014, section 2.2; Karimireddy et al., 2019 (arXiv:1901.09847), Algorithm 2; with the
largest numbers alone Stich et al., 2018 (arXiv:1809.07599), Algorithm 1. With C what travels and is read back, and e_k
what client k could not say so far (0 at first, kept in its state):

    client:  p = u_k + e_k;   sends C(p);   e_k = p - C(p)                 u_k: the upload that the method means
    server:  counts C(p) in the place of u_k

so that all that was sent, and e_k, are together all that was meant. A client that fails keeps its old e_k.

Where a round has several phases, the upload of a later one stands in the place of that of an earlier one, which is not
sent. So each phase begins with the e_k that the round began with, which lies in the client's state beside the new one.

Downloads are rounded once for all clients of a round, and the server keeps what it had. They have no error feedback: a
message is the state of the server, not a change of it, so that its rounding does not add up over rounds; and what one
client did not hear in its last round is not what another one misses in this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from fedllm_bench.common.trees import Tree, moved_to
from fedllm_bench.methods.adapters.ranks import WHOLE
from fedllm_bench.methods.base import ClientState, Message, Phase, Server, Upload
from fedllm_bench.methods.communication.codec import Codec
from fedllm_bench.methods.wrapped import Wrapped

UNSENT = "unsent:"  # before the key of an upload: what of it was not sent yet, in a client's state
BEFORE = f"{UNSENT}before:"  # the same at the beginning of the round, where that has several phases


@dataclass(frozen=True, kw_only=True)
class SmallUploads(Wrapped):
    """Uploads travel by `codec`; states, sums and means stay as they are."""

    codec: Codec
    error_feedback: bool = False
    phase: Literal["only", "first", "later"] = "only"

    def phases(self, steps: int) -> tuple[Phase, ...]:
        chain = self.inner.phases(steps)
        if not (self.error_feedback and self.inner.changes("phases")):
            return tuple(replace(of, method=replace(self, inner=of.method)) for of in chain)
        first, later = replace(self, phase="first"), replace(self, phase="later")
        return tuple(
            replace(of, method=replace(later if number else first, inner=of.method)) for number, of in enumerate(chain)
        )

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        known = {key: tree for key, tree in client.items() if not key.startswith(UNSENT)}
        state, upload = self.inner.finish(message, known, y, mean_grad, steps, lr)
        if not self.error_feedback:
            return state, self.codec.encoded(upload)
        before, unsent = _below(BEFORE, client), _below(UNSENT, client)
        begun = before if self.phase == "later" else unsent
        meant = {key: _with(tree, begun.get(key, {})) for key, tree in upload.items()}
        sent = self.codec.encoded(meant)
        heard = self.codec.decoded(sent)
        left = {key: {name: t - heard[key][name] for name, t in tree.items()} for key, tree in meant.items()}
        left = {**unsent, **{key: {**begun.get(key, {}), **tree} for key, tree in left.items()}}  # the rest stays
        kept = {} if self.phase == "only" else {BEFORE + key: tree for key, tree in begun.items()}
        return {**state, **{UNSENT + key: tree for key, tree in left.items()}, **kept}, sent

    def receive(self, server: Server, upload: Upload) -> Upload:
        return self.inner.receive(server, self.codec.decoded(upload))


def _below(prefix: str, client: ClientState) -> dict[str, Tree]:
    """What a client's state has with this prefix of a key, and no longer one, under the rest of the key."""
    longer = BEFORE if prefix == UNSENT else None
    found = {key: tree for key, tree in client.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): t for key, t in found.items() if not (longer and key.startswith(longer))}


def _with(tree: Tree, unsent: Tree) -> Tree:
    """`tree` and what was not sent of it; a tensor of another shape than before, as of a pruned rank, begins anew."""
    return {
        name: tensor + unsent[name] if name in unsent and unsent[name].shape == tensor.shape else tensor
        for name, tensor in tree.items()
    }


@dataclass(frozen=True, kw_only=True)
class SmallDownloads(Wrapped):
    """What all clients of a round are sent travels by `codec`; what one client is told alone stays as it is."""

    codec: Codec

    def client_init(self, params: Tree) -> ClientState:
        """A client that keeps a model of its own begins it with what it gets: the server's was rounded on its way."""
        if self.inner.personal:
            params = self.broadcast(replace(self.inner.init(params), params=params))["params"]
        return self.inner.client_init(params)

    def broadcast(self, server: Server) -> Message:
        """What clients read; nothing of it is kept. What they have without the network is not rounded.

        Of a change of the base the factors are, also where the product goes, which has fewer numbers. What goes in the
        next round, and not in this, a client has from the last time that it went: as it was rounded then.
        """
        message = self.inner.broadcast(server)
        rounds = (server, replace(server, round=server.round + 1))
        going = [self.inner.travels(message, self.inner.tell(one, 0)) for one in rounds]  # the same to every client
        sent = {
            key: {n: t for n, t in tree.items() if key in WHOLE or any(n in one.get(key, {}) for one in going)}
            for key, tree in message.items()
        }
        heard = self.codec.decoded(self.codec.encoded(sent))
        return {key: tree | heard[key] for key, tree in message.items()}

    def changes(self, hook: str) -> bool:
        """What travels is other for each client only where that of `inner` is."""
        return self.inner.changes(hook) if hook == "travels" else super().changes(hook)

    def travels(self, message: Message, told: Message) -> Message:
        """Shapes and types of what goes, which is all that bytes are counted from: no number is rounded again."""
        sent = self.inner.travels(message, told)
        rounded = {key: tree for key, tree in sent.items() if key not in told}
        alone = {key: tree for key, tree in sent.items() if key in told}
        return {**self.codec.encoded(moved_to(torch.device("meta"), rounded)), **alone}
