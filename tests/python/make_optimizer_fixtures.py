#!/usr/bin/env python3
"""Makes tests/fixtures/optimizer/: what PyTorch's and `transformers`' optimizers, clipping, loss and schedules compute.

    python tests/python/make_optimizer_fixtures.py [DIRECTORY]

`cases.json` holds the options, `values.safetensors` the tensors; tests/fixtures/README.md names the keys.
Inputs come from `number`, which any language with 64-bit integers repeats exactly, so 100 gradients are not stored.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import get_scheduler
from transformers.optimization import Adafactor

# Number of the parameter in the formula -> name and shape. `tall` is like an embedding of which few rows are used at a time.
PARAMETERS = {0: ("matrix", (7, 5)), 1: ("tall", (40, 16)), 2: ("vector", (9,))}
KEPT_STEPS = (1, 2, 10, 100)
LOGITS, LOGITS_SHAPE = 10, (6, 11)
LABELS = [3, 0, 10, 7, 3, 5]

ADAFACTOR = dict(lr=1e-3, scale_parameter=False, relative_step=False, warmup_init=False)
OPTIMIZERS = {
    "adamw": (torch.optim.AdamW, {}),
    "adamw_other": (torch.optim.AdamW, dict(lr=3e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    "adafactor": (Adafactor, ADAFACTOR),
    "adafactor_scale_parameter": (Adafactor, ADAFACTOR | dict(scale_parameter=True)),
    "adafactor_weight_decay": (Adafactor, ADAFACTOR | dict(weight_decay=0.1)),
    "adafactor_class_defaults": (Adafactor, {}),
}
# PyTorch's switches between implementations of one algorithm, and algorithms that are not wanted.
LEFT_OUT = {"amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
SCHEDULES = ("constant", "constant_with_warmup", "linear", "inverse_sqrt", "cosine")
WARM_UPS = (0, 10)
TOTAL_STEPS = 100
SCHEDULE_STEPS = (0, 1, 5, 9, 10, 11, 12, 40, 55, 99, 100)


def number(tensor: int, step: int, index: int) -> float:
    """A number from [-1, 1) that f32 holds exactly: the top 24 bits of SplitMix64's finaliser over the three counters."""
    mask = (1 << 64) - 1
    value = ((tensor << 40 | step << 20 | index) + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & mask
    value ^= value >> 31
    return (value >> 40) / 2**23 - 1


def numbers(tensor: int, step: int, shape: tuple[int, ...]) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return torch.tensor([number(tensor, step, index) for index in range(count)]).reshape(shape)


def gradient(parameter: int, step: int) -> torch.Tensor:
    """The gradient at a step, from 1: scaled by 2^-(step mod 4); `tall` has none in row 5 and where (row + step) mod 4 is 0."""
    name, shape = PARAMETERS[parameter]
    result = numbers(parameter, step, shape) / 2 ** (step % 4)
    if name == "tall":
        rows = torch.arange(shape[0])
        result[(rows == 5) | ((rows + step) % 4 == 0)] = 0
    return result


def run_optimizer(kind, options: dict) -> tuple[dict, dict]:
    """The options with their defaults filled in, and the parameters after each of KEPT_STEPS."""
    parameters = [torch.nn.Parameter(numbers(index, 0, shape)) for index, (_, shape) in PARAMETERS.items()]
    optimizer = kind(parameters, **options)
    tensors = {}
    for step in range(1, max(KEPT_STEPS) + 1):
        for index, parameter in enumerate(parameters):
            parameter.grad = gradient(index, step)
        optimizer.step()
        if step in KEPT_STEPS:
            for index, (name, _) in PARAMETERS.items():
                tensors[f"step{step}.{name}"] = parameters[index].detach().clone()
    return {key: value for key, value in optimizer.defaults.items() if key not in LEFT_OUT}, tensors


def clipping() -> tuple[list, dict]:
    cases, tensors = [], {}
    for limit in (1.0, 100.0):
        parameters = []
        for index, (_, shape) in PARAMETERS.items():
            parameters.append(torch.nn.Parameter(torch.zeros(shape)))
            parameters[-1].grad = gradient(index, 1)
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        cases.append({"name": f"max_norm_{limit:g}", "max_norm": limit, "norm": norm.item()})
        for index, (name, _) in PARAMETERS.items():
            tensors[f"clip.max_norm_{limit:g}.{name}"] = parameters[index].grad
    return cases, tensors


def cross_entropy() -> tuple[list, dict]:
    cases, tensors = [], {}
    for smoothing in (0.0, 0.1, 0.3):
        logits = (numbers(LOGITS, 0, LOGITS_SHAPE) * 4).requires_grad_()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS), label_smoothing=smoothing)
        loss.backward()
        name = f"smoothing_{smoothing:g}"
        cases.append({"name": name, "label_smoothing": smoothing, "loss": loss.item()})
        tensors[f"cross_entropy.{name}.gradient"] = logits.grad
        tensors["cross_entropy.logits"] = logits.detach()
    return cases, tensors


def schedules() -> list:
    """Each schedule's factor on the learning rate at a step counted from 0, the first update's."""
    cases = []
    for name in SCHEDULES:
        for warm_up in WARM_UPS:
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            factors = get_scheduler(name, optimizer, num_warmup_steps=warm_up, num_training_steps=TOTAL_STEPS).lr_lambdas[0]
            cases.append(
                {
                    "name": name,
                    "warm_up_steps": warm_up,
                    "total_steps": TOTAL_STEPS,
                    "steps": SCHEDULE_STEPS,
                    "factors": [float(factors(step)) for step in SCHEDULE_STEPS],
                }
            )
    return cases


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "fixtures" / "optimizer"
    torch.set_num_threads(1)
    directory.mkdir(parents=True, exist_ok=True)

    tensors = {f"initial.{name}": numbers(index, 0, shape) for index, (name, shape) in PARAMETERS.items()}
    # For a reader's own `gradient`: these two must come out equal to the bit.
    tensors |= {f"gradient.step{step}.tall": gradient(1, step) for step in (1, 2)}
    optimizers = []
    for name, (kind, options) in OPTIMIZERS.items():
        filled, values = run_optimizer(kind, options)
        optimizers.append({"name": name, "class": f"{kind.__module__}.{kind.__name__}", "options": filled})
        tensors |= {f"{name}.{key}": value for key, value in values.items()}
    clips, clip_tensors = clipping()
    losses, loss_tensors = cross_entropy()

    cases = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "steps": KEPT_STEPS,
        "optimizers": optimizers,
        "clipping": clips,
        "cross_entropy": {"labels": LABELS, "cases": losses},
        "schedules": schedules(),
    }
    (directory / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file({key: value.contiguous() for key, value in (tensors | clip_tensors | loss_tensors).items()}, directory / "values.safetensors")
    print(f"{directory}: {sum(file.stat().st_size for file in directory.iterdir()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
