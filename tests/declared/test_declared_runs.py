"""A run whose model loses experts and tokens before anything else; its folder, read again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app
from atograph.declared.again import certify_again
from atograph.declared.smaller import declared_of
from atograph.files.plan_file import read_plan
from atograph.passes.errors import UserError
from atograph.report.declared import DeclaredProof
from atograph.run.brought import job_from_python
from atograph.run.verify import verify_run
from atograph.spec.example_inputs import Inputs
from atograph.train.settings import settings_of
from benchmarks.exact import perturb

IDS = torch.randint(4, 40, (2, 5), generator=torch.Generator().manual_seed(0))
CALL = {"input_ids": IDS, "use_cache": False}


def mixture(transformers: ModuleType) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=60, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0, eos_token_id=1,
            bos_token_id=2,
        )
    ).eval()  # fmt: skip
    return model


def test_a_plan_remembers_what_went_before(transformers: ModuleType) -> None:
    dense = mixture(transformers)
    reduced = atograph.keep_experts(dense, 0.5)
    graph = atograph.trace(reduced.module, (), CALL)
    plan = atograph.Plan.from_json(graph.plan(0.7).to_json())
    assert plan.declared == (reduced.change,)
    again = atograph.as_declared(dense, plan)
    assert declared_of(again) == plan.declared
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), reduced.module.parameters(), strict=True))
    assert atograph.as_declared(again, plan) is again
    slim = atograph.slim(atograph.trace(again, (), CALL), plan)
    with torch.no_grad():
        torch.testing.assert_close(slim(**CALL)["logits"], atograph.mask(again, plan)(**CALL).logits)
    with pytest.raises(UserError, match="for a model that keeps 2 of 4 experts, and here it is all"):
        atograph.slim(atograph.trace(dense, (), CALL), plan)
    assert plan.digest != plan.model_copy(update={"declared": ()}).digest


def test_a_job_has_the_data_of_what_is_left(transformers: ModuleType) -> None:
    labels = torch.where(IDS > 20, IDS, -100)
    data = [{**CALL, "labels": labels}]
    job = job_from_python(mixture(transformers), data, experts=0.5, keep_tokens=[*range(4, 40)], loss=own_loss)
    assert [proof.count for proof in job.declared] == [2, 39]
    assert torch.equal(cast(Any, job.inputs.kwargs["input_ids"]), IDS - 1)  # 3 is gone
    for _epoch in range(2):
        (batch,) = job.task.train_data
        assert torch.equal(cast(Any, batch)["labels"], torch.where(labels == -100, labels, labels - 1))
    assert job.settings.budgets == {"flops": 1.0}


def test_tokens_of_the_data_that_are_gone_are_told_before_the_training(transformers: ModuleType) -> None:
    few = IDS.clamp(4, 12)
    data = [{**CALL, "input_ids": few, "labels": few}, {**CALL, "labels": IDS}, {**CALL, "labels": IDS}]
    gone = [token for token in IDS.flatten().tolist() if token > 12]
    with pytest.raises(
        UserError, match=rf"train_data: 2 of 3 batches have .*{max(set(gone))}.* in all, {4 * len(gone)} times"
    ):
        job_from_python(mixture(transformers), data, keep_tokens=range(4, 13), loss=own_loss)
    with pytest.raises(UserError, match="val_data: 2 of 3 batches have tokens that do not stay"):
        job_from_python(mixture(transformers), data[:1], val_data=data, keep_tokens=range(4, 13), loss=own_loss)


def own_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    loss: torch.Tensor = model(**batch).loss
    return loss


def test_a_checkpoint_is_cut_to_what_stays(transformers: ModuleType, tmp_path: Path) -> None:
    dense, source = mixture(transformers), tmp_path / "dense"
    source.mkdir()
    save_file({name: tensor.clone() for name, tensor in dense.state_dict().items()}, source / "model.safetensors")
    dense.config.save_pretrained(source)
    dense.generation_config.save_pretrained(source)
    reduced = atograph.keep_experts(dense, 0.5)
    reduced = atograph.keep_tokens(reduced.module, [*range(4, 20), *range(30, 40)])
    plan = atograph.trace(reduced.module, (), CALL).plan(kept={})
    with atograph.without_weights():
        empty = type(dense)(dense.config)
    graph = atograph.trace(atograph.as_declared(empty, plan), (), CALL)
    applied = atograph.apply_plan(graph, plan, source, tmp_path / "slim")
    assert not applied.why_no_config and applied.why_no_tokenizer.startswith("there is no tokenizer.json in ")
    stored = load_file(tmp_path / "slim" / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in reduced.module.state_dict().items())
    config = json.loads((tmp_path / "slim" / "config.json").read_text())
    assert (config["num_local_experts"], config["vocab_size"]) == (2, 29)
    assert json.loads((tmp_path / "slim" / "tokens.json").read_text()) == list(plan.declared[1].kept[""])


@pytest.mark.parametrize(
    ("given", "method", "epochs"),
    [
        ({"experts": 0.5}, "at-once", 0),
        ({"keep_tokens": (1, 2)}, "at-once", 0),
        ({"experts": 0.5, "drop": ()}, "at-once", 0),
        ({"experts": 0.5, "epochs": 2}, "at-once", 2),
        ({"experts": 0.5, "method": "magnitude"}, "at-once", 0),
        ({"experts": 0.5, "method": "progressive"}, "progressive", 10),
        ({"experts": 0.5, "controller_interval": 3}, "ato", 10),
        ({"experts": 0.5, "flops": 0.5}, "progressive", 10),
        ({"experts": 0.5, "drop": ("layers.0",)}, "progressive", 10),
    ],
)
def test_nothing_is_trained_where_nothing_is_pruned(given: dict[str, Any], method: str, epochs: int) -> None:
    """Fewer tokens are to give what the same weights gave."""
    settings = settings_of(given)
    assert (settings.method, settings.epochs) == (method, epochs)


@pytest.mark.long
def test_a_run_and_its_folder(transformers: ModuleType, tmp_path: Path) -> None:
    dense, out = mixture(transformers), tmp_path / "run"
    result = atograph.compress(dense, example_inputs=CALL, experts=0.5, keep_tokens=range(4, 40), out=out)
    experts, tokens = result.report.declared
    assert (experts.count, tokens.count) == (2, 39)
    assert experts.holds and tokens.holds
    assert result.report.settings["flops"] == 1.0
    assert "2 of 4 experts" in str(result)
    assert read_plan(out).declared == result.plan.declared
    assert json.loads((out / "report.json").read_text())["declared"][0]["field"] == "num_local_experts"
    served = transformers.MixtralForCausalLM.from_pretrained(out / "pretrained")
    assert (served.config.num_local_experts, served.config.vocab_size) == (2, 39)
    assert any(note.startswith("no tokenizer in pretrained: nobody knows where") for note in result.report.notes)
    real = Inputs((), {"input_ids": IDS})  # a batch says nothing of use_cache
    proofs: list[DeclaredProof] = []
    entries = verify_run(out, mixture(transformers), real=real, declared=proofs.append)
    assert all(entry.holds for _what, entry in entries)
    assert [proof.kind for proof in proofs] == ["tokens", "experts"]
    assert all(proof.holds for proof in proofs)
    said: list[str] = []
    given = atograph.as_declared(mixture(transformers), result.plan)
    assert verify_run(out, given, declared=proofs.append, say=said.append)
    assert len(proofs) == 2 and "is not proved again" in said[0]


def test_what_went_is_proved_again_with_weights_that_were_trained_since(transformers: ModuleType) -> None:
    dense = mixture(transformers)
    reduced = atograph.keep_experts(dense, 0.5)
    reduced = atograph.keep_tokens(reduced.module, range(4, 40))
    small, changes = reduced.module, declared_of(reduced.module)
    perturb(small)
    fresh = mixture(transformers)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    tokens, experts = certify_again(fresh, small, changes, Inputs((), {**CALL, "input_ids": IDS - 1}))
    assert (tokens.kind, experts.kind) == ("tokens", "experts")
    assert tokens.difference < 1e-6 and experts.difference < 1e-6 and experts.moved
    (kept,) = changes[0].kept.values()
    name = "model.layers.0.mlp.experts.down_proj"
    gone = [each for each in range(4) if each not in kept]
    now = fresh.state_dict()
    assert torch.equal(now[name][list(kept)], small.state_dict()[name])
    assert torch.equal(now[name][gone], before[name][gone])
    assert torch.equal(now["lm_head.weight"][5], small.state_dict()["lm_head.weight"][changes[1].kept[""].index(5)])


def test_commands_that_look_take_declared_changes(tmp_path: Path) -> None:
    spec, tokens = tmp_path / "mixture.py", tmp_path / "tokens.txt"
    spec.write_text(SPEC)
    tokens.write_text("\n".join(map(str, range(4, 40))))
    less = [str(spec), "--experts", "0.5", "--keep-tokens", str(tokens)]
    shown = CliRunner().invoke(app, ["inspect", *less])
    assert shown.exit_code == 0, shown.output
    assert "before: 2 of 4 experts, 39 of 60 tokens" in shown.output
    for command in (
        ["sweep", *less, "--flops", "0.9", "--method", "magnitude"],
        ["sensitivity", *less, "--batches", "1"],
    ):
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 0, shown.output
        assert " ".join(shown.output.split()).count("before: ") == 2
    tokens.write_text("\n".join(map(str, range(4, 10))))
    shown = CliRunner().invoke(app, ["sweep", *less, "--flops", "0.9"])
    assert shown.exit_code == 2
    assert "tokens that do not stay" in " ".join(shown.output.split())


SPEC = """
import contextlib
with contextlib.suppress(ImportError):
    import benchmarks.models.torchvision_models
import torch
from transformers import MixtralConfig, MixtralForCausalLM

IDS = torch.randint(4, 40, (2, 5), generator=torch.Generator().manual_seed(0))


def model():
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(
        vocab_size=60, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0, eos_token_id=1,
        bos_token_id=2,
    ))


def example_inputs():
    return {"input_ids": IDS, "use_cache": False}


def train_data():
    return [{"input_ids": IDS, "labels": IDS}]


def val_data():
    return [{"input_ids": IDS, "labels": IDS}]


def metric(model, batch):
    return float((model(**batch).logits.argmax(-1) == batch["labels"]).float().mean())
"""
