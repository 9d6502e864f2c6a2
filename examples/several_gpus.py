"""Makes a 1-bit language model of a float Llama or Qwen3 on several GPUs, its parameters sharded by FSDP2.

    torchrun --nproc-per-node 8 examples/several_gpus.py --model Qwen/Qwen3-0.6B --data tokens.npy --out run

The model is a folder of transformers or a name on its hub, the data are a file of `onebit.write_tokens`, the teacher is
the float model unless `--teacher` names another one. The same command goes on from the last checkpoint, with any number
of processes.
"""

import argparse
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import distributed
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForCausalLM

import onebit
from onebit.evaluation.losses import next_token, token_distillation
from onebit.quantizers import Hardening, Xnor
from onebit.train.schedules import schedule_factor


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out", "teacher"):
        parser.add_argument(f"--{name}", required=name != "teacher")
    for name, default in {"steps": 1000, "batch": 32, "lr": 1e-3, "seed": 0, "save": 100}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{default} by default")
    parser.add_argument("--embeddings", action="store_true", help="make embedding and head binary, too")
    parser.add_argument("--optimizer", choices=("adamw", "adamw8bit", "bf16"), default="adamw", help="bf16: of latents")
    return parser.parse_args()


def opened(args: Any, folder: str, device: torch.device, *, student: bool) -> Any:
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if student:
        chosen: Any = None if args.embeddings else lambda name, _: name != "lm_head"
        quantizer: Any = lambda: Hardening(Xnor(group=128))  # noqa: E731
        onebit.binarize_(net, weight_quantizer=quantizer, where=chosen, embeddings=args.embeddings)
        net.gradient_checkpointing_enable()
    net.to(device, torch.bfloat16 if student and args.optimizer == "bf16" else None).train(student)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(torch.bfloat16 if device.type == "cuda" else None, torch.float32)
    for part in (*net.model.layers, net):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    return net


def make_optimizer(args: Any, model: Any) -> torch.optim.Optimizer:
    kind: Any = torch.optim.AdamW
    if args.optimizer != "adamw":
        from torchao import optim

        kind = optim.AdamW8bit if args.optimizer == "adamw8bit" else partial(optim._AdamW, bf16_stochastic_round=True)
    return onebit.clip_latents_(kind(onebit.latent_groups(model, lr=args.lr), betas=(0.9, 0.95)))


def train(args: Any, model: Any, teacher: Any, device: torch.device) -> None:
    rank, world, data = distributed.get_rank(), distributed.get_world_size(), np.load(args.data, mmap_mode="r")
    optimizer, done = make_optimizer(args, model), 0
    factor = schedule_factor("cosine", total_steps=args.steps, warmup_steps=args.steps // 10, final=0.1)
    for found in sorted(Path(args.out).glob("step-*/.metadata"))[-1:]:
        state = states.get_state_dict(model, optimizer)
        dcp.load({"model": state[0], "optimizer": state[1]}, checkpoint_id=found.parent)
        states.set_state_dict(model, optimizer, model_state_dict=state[0], optim_state_dict=state[1])
        done = int(found.parent.name.removeprefix("step-"))
    order = lru_cache(1)(lambda epoch: np.random.default_rng([args.seed, epoch]).permutation(len(data)))
    for step in range(done, args.steps):
        epoch, batch = divmod(step, len(data) // args.batch)
        rows = order(epoch)[batch * args.batch : (batch + 1) * args.batch][rank::world]
        tokens = torch.from_numpy(data[rows].astype(np.int64)).to(device)
        for group in optimizer.param_groups:
            rate = torch.as_tensor(group["lr"])  # of torchao it is a tensor already
            group["lr"] = rate.fill_(args.lr * factor(step)) if rate is group["lr"] else args.lr * factor(step)
        onebit.set_progress(model, step / args.steps)
        logits = model(tokens, use_cache=False).logits.float()
        with torch.no_grad():
            taught = teacher(tokens, use_cache=False).logits.float()
        loss = (next_token(logits, tokens) + token_distillation(logits, taught, tokens)) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % args.save == 0 or step + 1 == args.steps:
            state = states.get_state_dict(model, optimizer)
            dcp.save({"model": state[0], "optimizer": state[1]}, checkpoint_id=Path(args.out, f"step-{step + 1:07}"))
            print(f"step {step + 1} of {args.steps}: loss of rank {rank} {loss.item():.3f}", flush=True)


def main() -> None:
    args, gpu = parse(), torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    distributed.init_process_group("nccl" if gpu else "gloo")
    model = opened(args, args.model, device, student=True)
    train(args, model, opened(args, args.teacher or args.model, device, student=False), device)
    whole = states.get_model_state_dict(model, options=states.StateDictOptions(full_state_dict=True, cpu_offload=True))
    if distributed.get_rank() == 0:
        if model.config.tie_word_embeddings:
            whole.pop("lm_head.weight")
        model.config.quantization_config = onebit.quantizer_config(model)
        model.save_pretrained(args.out, state_dict=whole)  # then: onebit export OUT --to gguf
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
