"""Logits of models whose output is more than their head on their decoder's states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def whole_output(base: Any, hidden: Tensor) -> Tensor:
    """Logits that the whole model makes of hidden states (..., H): its decoder is left out, nothing behind it is."""
    from transformers.modeling_outputs import MoeModelOutputWithPast

    decoder = base.get_decoder()
    # of all outputs of decoders this one has the most fields; what a model does not know it does not read
    states = MoeModelOutputWithPast(last_hidden_state=hidden.reshape(1, -1, hidden.shape[-1]))
    own = vars(decoder).get("forward")
    decoder.forward = lambda *args, **kwargs: states
    try:
        ids = torch.zeros(states.last_hidden_state.shape[:2], dtype=torch.long, device=hidden.device)
        logits: Tensor = base(input_ids=ids).logits
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own
    return logits.view(*hidden.shape[:-1], -1)
