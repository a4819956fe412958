"""The tests' own ground: closed network, own cache, a tiny world that is what it says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

from fedllm_bench.common import files
from fedllm_bench.data.clients import Clients
from fedllm_bench.training.model.lora_model import LoraModel


def test_the_network_is_closed_but_for_loopback():
    with socket.socket() as outside, pytest.raises(PermissionError, match="closed"):
        outside.connect(("192.0.2.1", 80))  # reserved for documentation, RFC 5737
    with pytest.raises(PermissionError, match="closed"):
        socket.create_connection(("example.invalid", 80))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def test_the_cache_is_not_the_users():
    assert Path.home() / ".cache" not in files.cache_root().parents


def test_the_tiny_world_has_six_clients_with_rows(tiny_clients: Clients):
    sizes = [len(tiny_clients.train_rows[client]) for client in tiny_clients.ids]
    assert len(sizes) == 6
    assert min(sizes) >= 12
    assert len(set(sizes)) > 1  # otherwise weights by examples could not be told from equal ones


def test_the_double_model_is_the_tiny_model(tiny_model: LoraModel, double_model: LoraModel):
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        single, double = (m.base(input_ids=ids).logits for m in (tiny_model, double_model))
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-4)
    assert single.std() > 0.3
