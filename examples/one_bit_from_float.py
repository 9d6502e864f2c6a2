"""Makes a 1-bit language model of a float one: python examples/one_bit_from_float.py MODEL TEXT_FILE [STEPS]

MODEL is a Llama or Qwen3, a folder of transformers or a name on its hub. Needs transformers and gguf. The same command
goes on where it was stopped.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import onebit
from onebit.quantizers import Hardening, Xnor
from onebit.train.distillation import Teacher

FOLDER, LENGTH, BATCH, RATE = Path("one-bit"), 256, 16, 1e-3

if __name__ == "__main__":
    source, text, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 1000
    model, teacher = (AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(source)
    FOLDER.mkdir(exist_ok=True)
    rows = onebit.write_tokens(text, tokenizer, FOLDER / "tokens.npy", length=LENGTH)
    held_out = rows[-64:]
    print("float", onebit.evaluate(teacher, held_out, loss="next_token"))

    # a scale for 128 weights, as the file has it; embeddings=True makes embedding and head binary, too
    onebit.binarize_(model, weight_quantizer=lambda: Hardening(Xnor(group=128)))
    optimizer = onebit.clip_latents_(torch.optim.AdamW(onebit.latent_groups(model, lr=RATE), betas=(0.9, 0.95)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1, pct_start=0.1)
    onebit.fit(
        model, rows[:-64], optimizer, steps=steps, steps_per_epoch=min(100, steps), batch_size=BATCH, loss="next_token",
        teacher=Teacher(teacher, weight=0.5), validation=held_out, schedule=schedule, clip_grad_norm=1.0,
        folder=FOLDER / "run", resume=True,
    )  # fmt: skip
    print("1-bit", onebit.evaluate(model, held_out, loss="next_token"))
    print(onebit.export_gguf(model, FOLDER / "net.gguf", tokenizer=tokenizer))
